"""The programs of train_torch.py --device neuron, run on a CPU: the numbers of --device cpu, each compiled once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import train_torch
from common import program
from common.training.neuron import trainer
from common.training.neuron.llama import Device
from common.training.parallel import Ranks
from tests.scripts import train_as_neuron
from tests.scripts.test_train_torch import RANK_FILE, adapter, result, train
from tests.scripts.training_files import (
    SETTINGS,
    finish,
    make_model,
    make_shards,
    make_tokens,
    start_ranks,
    train_command,
)

# Ten sequences: a step of 6 in micro-batches of 3, one of 4 in a micro-batch of 3 and one of 1, and over again.
FLAGS = ("--batch-size", 3, "--accumulate", 2, "--max-steps", 4, "--learning-rate", 0.01, "--rank", 4)
WORLDS = {"tp2": (2, 1), "tp4": (4, 2)}  # ranks, copies of each K/V head
VOCAB_SIZE = 130  # which 4 ranks pad, and 2 do not
# prepare, and the update; layer and loss, once with a gradient and once without (for the evaluation)
PROGRAMS = 1 + 1 + 2 * 2
# Flags whose values are inputs of the programs; the values 0 and 1 are those that compilers like to special-case.
OTHER_TRIALS = [
    ("--learning-rate", 0.003, "--alpha", 4, "--seed", 1, "--max-steps", 2),
    ("--alpha", 8, "--rslora", "--schedule", "cosine", "--warmup-ratio", 0.5, "--max-steps", 3),
    ("--weight-decay", 0.1, "--max-grad-norm", 0, "--max-steps", 2),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neuron")
    make_model(folder / "model", vocab_size=VOCAB_SIZE)
    make_shards(folder / "model", folder / "tp1")
    for name, (tp_size, multiplier) in WORLDS.items():
        make_shards(folder / "model", folder / name, tp_size, multiplier)
    make_tokens(folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def whole(files) -> Path:
    """The output of --device cpu on one rank."""
    return train(files, files / "whole", *FLAGS)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def parse(files: Path, output: Path, *flags: object) -> argparse.Namespace:
    return train_torch.flags().parse_args(train_command(files / "tp1", files / "tokens", output, *flags))


def train_as(device: Device, files: Path, output: Path, *flags: object) -> Path:
    trainer.train(parse(files, output, *flags), device)
    return output


def assert_equal_training(output: Path, expected: Path) -> None:
    for key in ("loss", "eval_loss_start", "eval_loss_end"):
        assert result(output)[key] == pytest.approx(result(expected)[key], abs=1e-4)
    for key in ("steps", "tokens", "label_tokens"):
        assert result(output)[key] == result(expected)[key]


def test_one_rank_trains_as_the_cpu_does_and_compiles_each_program_once(files, whole, tmp_path):
    counter = CompileCounterWithBackend("aot_eager")
    train_as(Device("cpu", "gloo", counter), files, tmp_path, *FLAGS)
    assert_equal_training(tmp_path, whole)
    torch.testing.assert_close(adapter(tmp_path), adapter(whole), atol=1e-4, rtol=0)
    assert counter.frame_count == PROGRAMS


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_later_trials_of_a_sweep_compile_nothing(files, tmp_path, monkeypatch, dropout):
    counter = CompileCounterWithBackend("aot_eager")
    compiled: dict[tuple, object] = {}
    device = Device("cpu", "gloo", counter)

    def compile_once(device, program):
        """Native PyTorch finds a program of an earlier process in its cache, if its constants are the same too."""
        key = (program.func, *sorted(program.keywords.items()))
        if key not in compiled:
            compiled[key] = torch.compile(program, backend=counter, fullgraph=True, dynamic=False)
        return compiled[key]

    monkeypatch.setattr(Device, "compile", compile_once)
    flags = (*FLAGS, "--dropout", dropout)
    train_as(device, files, tmp_path / "first", *flags)
    first = counter.frame_count
    for number, changes in enumerate(OTHER_TRIALS):
        train_as(device, files, tmp_path / str(number), *flags, *changes)
    assert counter.frame_count == first


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "granite"])
def test_a_family_trains_as_on_the_cpu(files, tmp_path, family):
    make_shards(make_model(tmp_path / "model", model_type=family, **SETTINGS[family]), tmp_path / "tp1")
    (tmp_path / "tokens").symlink_to(files / "tokens")
    train_as(train_as_neuron.CPU, tmp_path, tmp_path / "neuron", *FLAGS)
    expected = train(tmp_path, tmp_path / "cpu", *FLAGS)
    assert_equal_training(tmp_path / "neuron", expected)
    torch.testing.assert_close(adapter(tmp_path / "neuron"), adapter(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_train_as_one_on_the_cpu_does(files, whole, tmp_path, world):
    tp_size = WORLDS[world][0]
    command = train_command(files / world, files / "tokens", tmp_path, *FLAGS)
    statuses, said = finish(start_ranks(tp_size, command, Path(train_as_neuron.__file__)))
    assert statuses == [0] * tp_size, said
    assert_equal_training(tmp_path, whole)
    for path in (tmp_path / RANK_FILE).parent.iterdir():
        for name, own in torch.load(path, weights_only=True).items():
            if own.shape == adapter(whole)[name].shape:  # what the ranks share
                torch.testing.assert_close(own, adapter(whole)[name], atol=1e-4, rtol=0)


def test_recomputed_layers_change_nothing_and_compile_nothing_more(files, whole, tmp_path):
    counter = CompileCounterWithBackend("aot_eager")
    train_as(Device("cpu", "gloo", counter), files, tmp_path, *FLAGS, "--gradient-checkpointing")
    torch.testing.assert_close(adapter(tmp_path), adapter(whole), atol=1e-4, rtol=0)
    assert counter.frame_count == PROGRAMS


def test_some_targets(files, tmp_path):
    flags = (*FLAGS, "--rslora", "--targets", "k_proj", "up_proj")
    train_as(train_as_neuron.CPU, files, tmp_path / "neuron", *flags)
    expected = adapter(train(files, tmp_path / "cpu", *flags))
    torch.testing.assert_close(adapter(tmp_path / "neuron"), expected, atol=1e-4, rtol=0)


def test_bf16_with_dropout_stopped_midway_continues_to_the_same_bits(files, tmp_path):
    flags = (*FLAGS, "--dtype", "bf16", "--dropout", 0.2, "--gradient-checkpointing", "--checkpoint-every", 1)
    train_as(train_as_neuron.CPU, files, tmp_path / "whole", *flags)
    stopped = trainer.NeuronTraining(parse(files, tmp_path / "stopped", *flags), Ranks(), train_as_neuron.CPU)
    for step in range(3):
        stopped.step(step, read=False)
    stopped.record.steps = 3
    stopped.record.eval_loss_start = 0.0
    stopped.checkpoints.save(3, stopped._state())
    train_as(train_as_neuron.CPU, files, tmp_path / "stopped", *flags)
    torch.testing.assert_close(adapter(tmp_path / "stopped"), adapter(tmp_path / "whole"), atol=0, rtol=0)
    assert result(tmp_path / "whole")["eval_loss_end"] < result(tmp_path / "whole")["eval_loss_start"]


def test_dropout_falls_on_the_share_it_should(files, tmp_path):
    masks = trainer.Dropout(0.25, (1, 2)).masks(0, [(200, 200), None], "cpu")
    assert masks[1] is None
    assert masks[0] is not None
    assert sorted(masks[0].unique().tolist()) == [0, pytest.approx(4 / 3)]
    assert masks[0].mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("flags", [(), ("--dropout", 0.1, "--gradient-checkpointing", "--dtype", "bf16")])
def test_a_step_stays_on_the_device_and_reads_nothing(files, tmp_path, flags):
    """On torch's device "meta" whatever mixes devices, or asks for a value, is an error."""
    meta = Device("meta", "gloo", "aot_eager")
    training = trainer.NeuronTraining(parse(files, tmp_path, *FLAGS, *flags), Ranks(), meta)
    for step in range(2):
        assert training.step(step, read=False) is None


def test_without_the_device_there_is_one_line(files, tmp_path, capsys):
    arguments = train_command(files / "tp1", files / "tokens", tmp_path / "out", "--device", "neuron")
    assert program.main(train_torch.run, train_torch.flags(), arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search("--device neuron: No module named 'torch_neuronx'; use the environment of Neuron 2.33", line)
    assert not (tmp_path / "out").exists()
