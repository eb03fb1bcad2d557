"""train_torch.py as a program: the same result on any number of ranks, after a kill, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_torch
from common import program
from common.training.cpu.trainer import Trainer
from common.training.parallel import Ranks
from tests.scripts.training_files import (
    PROGRAM,
    finish,
    make_model,
    make_shards,
    make_tokens,
    start_ranks,
    train_command,
)

RANK_FILE = "lora_adapter/lora/model/dp_rank_00_tp_rank_00_pp_rank_00.pt"
FLAGS = ("--batch-size", 3, "--accumulate", 2, "--epochs", 5, "--learning-rate", 0.01, "--rank", 4)
EVENT = re.compile(r"info:|\[\d+\]|\d+/\d+ step")
WORLDS = {"tp2": (2, 1, "trn2"), "tp4_trn2": (4, 2, "trn2"), "tp4_trn1": (4, 2, "trn1")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    make_model(folder / "model")
    make_shards(folder / "model", folder / "tp1")
    for name, (tp_size, multiplier, layout) in WORLDS.items():
        make_shards(folder / "model", folder / name, tp_size, multiplier, layout)
    make_tokens(folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def whole(files) -> Path:
    """The output of one rank, trained by FLAGS."""
    train(files, files / "whole", *FLAGS)
    return files / "whole"


def train(files: Path, output: Path, *flags: object) -> Path:
    """Train in this process and expect success."""
    arguments = train_command(files / "tp1", files / "tokens", output, *flags)
    train_torch.run(train_torch.flags().parse_args(arguments))
    return output


def refused(capsys, files: Path, output: Path, *flags: object, shards: str = "tp1") -> tuple[int, str]:
    """Run the program in this process; its exit status and the one line that it says."""
    arguments = train_command(files / shards, files / "tokens", output, *flags)
    status = program.main(train_torch.run, train_torch.flags(), arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if not EVENT.match(line)]
    assert len(lines) == 1, lines
    return status, lines[0]


def adapter(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / RANK_FILE, weights_only=True)


def result(output: Path) -> dict:
    return json.loads((output / "training.json").read_text())


def assert_same(first: Path, second: Path, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(adapter(first), adapter(second), atol=tolerance, rtol=0)


def test_training_learns_and_says_what_it_did(files, tmp_path):
    out = result(train(files, tmp_path, "--batch-size", 4, "--epochs", 6, "--learning-rate", 0.01))
    assert out["steps"] == 18  # ceil(10 / 4) = 3 an epoch
    assert out["epochs"] == 6
    assert out["loss"] < 4.0 < out["eval_loss_start"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture(scope="module")
def tp2(files) -> Path:
    """The output of two ranks, trained by FLAGS."""
    return train_ranks(files, "tp2", files / "tp2_output")


def train_ranks(files: Path, world: str, output: Path) -> Path:
    tp_size = WORLDS[world][0]
    statuses, said = finish(start_ranks(tp_size, train_command(files / world, files / "tokens", output, *FLAGS)))
    assert statuses == [0] * tp_size, said
    assert said.count("steps in total") == 1
    return output


def test_two_ranks_train_the_same_as_one(whole, tp2):
    assert_equal_training(tp2, whole, tp_size=2)


@pytest.mark.parametrize("world", ["tp4_trn2", "tp4_trn1"])
def test_ranks_that_share_key_value_heads_train_the_same_as_one(files, whole, tmp_path, world):
    assert_equal_training(train_ranks(files, world, tmp_path), whole, tp_size=4)


def assert_equal_training(output: Path, whole: Path, tp_size: int) -> None:
    for key in ("loss", "eval_loss_start", "eval_loss_end"):
        assert result(output)[key] == pytest.approx(result(whole)[key], abs=1e-4)
    assert_replicated_parameters_are_one(output, tp_size, adapter(whole))


def assert_replicated_parameters_are_one(output: Path, tp_size: int, whole: dict[str, torch.Tensor]) -> None:
    """lora_A of column-parallel and lora_B of row-parallel modules: the same bits on every rank."""
    folder = (output / RANK_FILE).parent
    ranks = [torch.load(path, weights_only=True) for path in sorted(folder.iterdir())]
    assert len(ranks) == tp_size
    for key, expected in whole.items():
        if ranks[0][key].shape == expected.shape:
            assert all(torch.equal(rank[key], ranks[0][key]) for rank in ranks), key
            torch.testing.assert_close(ranks[0][key], expected, atol=1e-4, rtol=0)


def test_adapter_files_are_those_of_nxd(whole):
    config = json.loads((whole / "lora_adapter/adapter_config.json").read_text())
    assert config == {
        "lora_rank": 4, "lora_alpha": 32.0, "lora_dropout": 0.0, "use_rslora": False, "bias": "none",
        "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    }  # fmt: skip
    layer = {key: tuple(value.shape) for key, value in adapter(whole).items() if ".1." in key}
    assert {key.removeprefix("model.layers.1."): size for key, size in layer.items()} == {
        "self_attn.qkv_proj.lora_A.weight": (4, 64), "self_attn.qkv_proj.lora_B.weight_q": (128, 4),
        "self_attn.qkv_proj.lora_B.weight_k": (32, 4), "self_attn.qkv_proj.lora_B.weight_v": (32, 4),
        "self_attn.o_proj.lora_A.weight": (4, 128), "self_attn.o_proj.lora_B.weight": (64, 4),
        "mlp.gate_up_proj.lora_A.weight": (4, 64), "mlp.gate_up_proj.lora_B.weight": (192, 4),
        "mlp.down_proj.lora_A.weight": (4, 96), "mlp.down_proj.lora_B.weight": (64, 4),
    }  # fmt: skip
    assert (whole / "lora_adapter/lora/done").read_text() == (whole / "lora_adapter/lora/checkpoint").read_text() == "1"
    assert (whole / "layout.json").is_file()


def test_only_targeted_projections_are_trained(files, tmp_path):
    train(files, tmp_path, *FLAGS, "--rslora", "--targets", "q_proj", "v_proj", "up_proj")
    names = {key.removeprefix("model.layers.0.") for key in adapter(tmp_path) if ".0." in key}
    assert names == {
        "self_attn.qkv_proj.lora_A.weight", "self_attn.qkv_proj.lora_B.weight_q", "self_attn.qkv_proj.lora_B.weight_v",
        "mlp.gate_up_proj.lora_A.weight", "mlp.gate_up_proj.lora_B.weight",
    }  # fmt: skip
    gate, up = adapter(tmp_path)["model.layers.0.mlp.gate_up_proj.lora_B.weight"].chunk(2)
    assert not gate.any()
    assert up.any()


def test_accumulation_and_gradient_checkpointing_do_not_change_the_result(files, whole, tmp_path):
    flags = ("--epochs", 5, "--learning-rate", 0.01, "--rank", 4)
    assert_same(whole, train(files, tmp_path / "one", *flags, "--batch-size", 6), 1e-5)
    assert_same(whole, train(files, tmp_path / "six", *flags, "--batch-size", 1, "--accumulate", 6), 1e-5)
    assert_same(whole, train(files, tmp_path / "checkpointing", *FLAGS, "--gradient-checkpointing"))


def test_bf16_with_dropout_trains(files, tmp_path):
    out = result(train(files, tmp_path, *FLAGS, "--dtype", "bf16", "--dropout", 0.1))
    assert out["loss"] < out["eval_loss_start"] - 0.5  # the evaluation's tokens are other random ones


def test_training_killed_at_any_step_continues_to_the_same_bits(files, tmp_path):
    flags = (*FLAGS, "--epochs", 40, "--dropout", 0.2, "--checkpoint-every", 1)
    whole = train(files, tmp_path / "whole", *flags)
    command = [sys.executable, PROGRAM]
    command += train_command(files / "tp1", files / "tokens", tmp_path / "killed", *flags)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("[7]"))
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed/training.json").exists()
    train(files, tmp_path / "killed", *flags)
    assert_same(whole, tmp_path / "killed")
    assert result(tmp_path / "killed")["tokens"] == result(whole)["tokens"]


def test_ranks_killed_while_training_continue_to_the_same_bits(files, tp2, tmp_path):
    command = train_command(files / "tp2", files / "tokens", tmp_path, *FLAGS, "--checkpoint-every", 1)
    ranks = start_ranks(2, command)
    assert ranks[0].stderr is not None
    next(line for line in ranks[0].stderr if line.startswith("[3]"))
    for rank in ranks:
        rank.kill()
    finish(ranks)
    statuses, said = finish(start_ranks(2, command))
    assert statuses == [0, 0], said
    assert re.search(r"resuming from step [2-9]", said)
    assert_same(tmp_path, tp2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_interrupted_training_loses_no_step_and_continues_to_the_same_bits(files, tmp_path, number):
    flags = (*FLAGS, "--epochs", 40, "--dropout", 0.2)
    whole = train(files, tmp_path / "whole", *flags)
    [process] = ranks = start_ranks(1, train_command(files / "tp1", files / "tokens", tmp_path / "again", *flags))
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("[7]"))
    process.send_signal(number)
    statuses, said = finish(ranks)
    assert statuses == [75]
    last = max([7, *(int(step) for step in re.findall(r"^\[(\d+)\]", said, re.MULTILINE))])
    assert said.splitlines()[-1] == (
        f"train_torch.py: interrupted after step {last} of 80; the same command resumes there"
    )
    [_, said] = finish(start_ranks(1, train_command(files / "tp1", files / "tokens", tmp_path / "again", *flags)))
    assert f"resuming from step {last}" in said
    assert_same(whole, tmp_path / "again")
    assert result(tmp_path / "again")["tokens"] == result(whole)["tokens"]


def test_a_training_resumes_where_its_base_was_converted_again(files, tmp_path):
    """As on a fresh machine: equal shards, which are younger than the checkpoint."""
    flags = (*FLAGS, "--epochs", 20, "--dropout", 0.2)
    whole = train(files, tmp_path / "whole", *flags)
    output = tmp_path / "again"
    [process] = ranks = start_ranks(1, train_command(files / "tp1", files / "tokens", output, *flags))
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("[7]"))
    process.send_signal(signal.SIGTERM)
    assert finish(ranks)[0] == [75]
    shards = make_shards(files / "model", tmp_path / "tp1")
    [_, said] = finish(start_ranks(1, train_command(shards, files / "tokens", output, *flags)))
    assert re.search(r"resuming from step \d", said), said
    assert_same(whole, output)


def test_a_checkpoint_for_other_weights_is_not_resumed(files, tmp_path):
    def settings(shards: Path) -> str:
        args = train_torch.flags().parse_args(train_command(shards, files / "tokens", tmp_path / "out", *FLAGS))
        return Trainer(args, Ranks())._settings()

    other = make_shards(make_model(tmp_path / "model", initializer_range=0.2), tmp_path / "other")
    shutil.copy(files / "tp1" / "config.json", other)
    assert settings(other) != settings(files / "tp1")


def test_ranks_agree_on_the_step_when_one_of_them_is_signalled(files, tmp_path):
    flags = (*FLAGS, "--epochs", 40)
    command = train_command(files / "tp2", files / "tokens", tmp_path / "again", *flags)
    ranks = start_ranks(2, command)
    assert ranks[0].stderr is not None
    next(line for line in ranks[0].stderr if line.startswith("[3]"))
    ranks[1].send_signal(signal.SIGTERM)
    statuses, said = finish(ranks)
    assert statuses == [75, 75], said
    statuses, said = finish(start_ranks(2, command))
    assert statuses == [0, 0], said
    assert re.search(r"resuming from step [1-9]", said)
    finish(start_ranks(2, train_command(files / "tp2", files / "tokens", tmp_path / "whole", *flags)))
    assert_same(tmp_path / "whole", tmp_path / "again")


EVALUATED = (*FLAGS, "--epochs", 20, "--eval-every", 2, "--keep", "best")  # the held-out tokens are other random ones


def test_best_adapter_is_kept_and_a_training_stopped_early_finds_the_same(files, tmp_path):
    whole = train(files, tmp_path / "whole", *EVALUATED)
    early = train(files, tmp_path / "early", *EVALUATED, "--early-stopping-patience", 3)
    losses = result(whole)["evaluations"]
    step, loss = min(losses, key=lambda evaluation: evaluation[1])
    assert [at for at, _ in losses] == list(range(2, 41, 2))
    assert (result(whole)["best_step"], result(whole)["eval_loss_end"]) == (step, loss)
    assert result(early)["steps"] == step + 6 < result(whole)["steps"]
    assert result(early)["evaluations"] == losses[: len(result(early)["evaluations"])]
    assert_same(whole, early)
    with pytest.raises(AssertionError):
        assert_same(whole, train(files, tmp_path / "last", *FLAGS, "--epochs", 20))


def test_interrupted_training_remembers_its_evaluations_and_its_best_adapter(files, tmp_path):
    flags = (*EVALUATED, "--epochs", 200, "--early-stopping-patience", 20)
    whole = train(files, tmp_path / "whole", *flags)
    command = train_command(files / "tp1", files / "tokens", tmp_path / "again", *flags)
    [process] = ranks = start_ranks(1, command)
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith(f"[{result(whole)['best_step'] + 3}]"))
    process.send_signal(signal.SIGTERM)
    assert finish(ranks)[0] == [75]
    [status], said = finish(start_ranks(1, command))
    assert status == 0
    assert "resuming from step" in said
    assert result(tmp_path / "again")["evaluations"] == result(whole)["evaluations"]
    assert result(tmp_path / "again")["best_step"] == result(whole)["best_step"]
    assert_same(whole, tmp_path / "again")


@pytest.mark.parametrize("flags", [("--keep", "best"), ("--early-stopping-patience", 2)])
def test_what_evaluations_decide_needs_evaluations(files, tmp_path, capsys, flags):
    status, line = refused(capsys, files, tmp_path / "out", *flags)
    assert status == 2
    assert "need --eval-every" in line


def test_number_of_processes_must_be_tp_size(files, tmp_path, capsys):
    status, line = refused(capsys, files, tmp_path / "out", shards="tp2")
    assert status == 2
    assert "--nproc-per-node 2" in line
    assert not (tmp_path / "out").exists()


def test_missing_shard_is_one_line(files, tmp_path, capsys):
    shutil.copytree(files / "tp1", tmp_path / "tp1")
    (tmp_path / "tp1/model/dp_rank_00_tp_rank_00_pp_rank_00.pt").unlink()
    (tmp_path / "tokens").symlink_to(files / "tokens")
    status, line = refused(capsys, tmp_path, tmp_path / "out")
    assert status == 2
    assert "dp_rank_00_tp_rank_00_pp_rank_00.pt is missing" in line


def test_damaged_shard_of_one_rank_ends_all_ranks_with_one_line(files, tmp_path):
    shutil.copytree(files / "tp2", tmp_path / "tp2")
    shard = tmp_path / "tp2/model/dp_rank_00_tp_rank_01_pp_rank_00.pt"
    shard.write_bytes(shard.read_bytes()[:-1000])
    statuses, said = finish(start_ranks(2, train_command(tmp_path / "tp2", files / "tokens", tmp_path / "out")))
    assert statuses == [2, 2]
    assert len(said.splitlines()) == 1
    assert "tp_rank_01" in said


def test_loss_that_is_not_finite_names_its_step(files, tmp_path, capsys):
    status, line = refused(capsys, files, tmp_path / "out", *FLAGS, "--learning-rate", 1e30, "--warmup-ratio", 0)
    assert status == 1
    assert "step 2: the loss is " in line
    assert not (tmp_path / "out/lora_adapter").exists()


def test_adapter_that_learned_nothing_is_refused(files, tmp_path, capsys):
    flags = ("--max-steps", 1, "--learning-rate", 0, "--warmup-ratio", 0)
    status, line = refused(capsys, files, tmp_path / "out", *flags)
    assert status == 1
    assert "all zero" in line


@pytest.mark.parametrize(("variables", "threads"), [({}, len(os.sched_getaffinity(0))), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_threads_are_the_users_or_the_share_of_the_cores(variables, threads):
    code = "from common.training.parallel import *; use_fair_share_of_cores(); print(torch.get_num_threads())"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROGRAM.parent), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == threads
