"""What train_nxd.py refuses, and does without neuronx_distributed.

That it trains is proven with the real package: `make test-nxd`, and test_nxd_reference.py for its figures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import train_nxd
from common import program
from common.training.optimizer import Plan, Schedule
from tests.scripts.training_files import make_model, make_shards, make_tokens, train_command

SECRET = "hf_thisisasecret"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nxd")
    make_model(folder / "model", head_dim=8)
    make_shards(folder / "model", folder / "tp1")
    make_shards(folder / "model", folder / "tp4", 4, 2)
    make_tokens(folder / "tokens")
    (folder / "code").mkdir()
    (folder / "code" / "modeling_llama_nxd.py").write_text("")
    return folder


def refused(capsys, files: Path, *flags: object, shards: str = "tp1") -> str:
    """The one line that train_nxd.py prints, having written nothing."""
    output = files / "never"
    arguments = train_command(files / shards, files / "tokens", output, "--model-code", files / "code", *flags)
    assert program.main(train_nxd.run, train_nxd.flags(), arguments) == 2
    assert not output.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_without_nxd_the_right_python_is_named(files, capsys):
    assert "opt/aws_neuronx_venv_pytorch_2_8_nxd_training/bin/python" in refused(capsys, files)


def test_processes_must_be_copies_of_the_model(files, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert "--nproc-per-node 4 or a multiple" in refused(capsys, files, shards="tp4")


def test_two_kinds_of_recomputation_are_refused(files, capsys):
    flags = ("--gradient-checkpointing", "--selective-checkpointing")
    assert "omit --selective-checkpointing" in refused(capsys, files, *flags)


def test_sequence_parallelism_needs_a_sequence_that_can_be_cut(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    data = make_tokens(tmp_path / "tokens", seq_len=90)
    line = refused(capsys, files, "--sequence-parallel", "--data", data, shards="tp4")
    assert "the 4 ranks do not divide the sequence length 90" in line


def test_modelling_code_must_be_there(files, tmp_path, capsys):
    assert "run fetch_nxd_model.py first" in refused(capsys, files, "--model-code", tmp_path)


def test_heads_of_another_width_are_refused(files, tmp_path, capsys):
    make_shards(make_model(tmp_path / "model", head_dim=16), tmp_path / "shards")
    capsys.readouterr()
    assert "train it with train_torch.py" in refused(capsys, files, "--shards", tmp_path / "shards")


@pytest.mark.parametrize("word", ["--hf-token", "--token"])
def test_there_is_no_flag_for_a_token(word):
    with pytest.raises(SystemExit):
        train_nxd.flags().parse_args([word, SECRET])
    assert "token=" not in train_nxd.flags().format_help().lower()


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_the_learning_rate_is_above_zero_after_warm_up(kind):
    plan = Plan(sequences=10, batch_size=1, accumulate=4, epochs=3, max_steps=0, seed=0)
    schedule = Schedule(kind, 1e-3, 0.2, plan.steps)
    assert plan.steps == 9
    assert all(schedule.learning_rate(step) > 0 for step in range(1, plan.steps))
