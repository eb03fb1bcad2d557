"""The flags that all trainers share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from common.program import BadInput
from common.training import flags
from tests.scripts.training_files import make_model, make_shards


def parse(*args: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    flags.add_settings(parser)
    return parser.parse_args(args)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("flags")
    return argparse.Namespace(shards=make_shards(make_model(folder / "model"), folder / "shards", 2, 1))


@pytest.mark.parametrize(("flag", "value"), [
    ("--epochs", "0"), ("--batch-size", "0"), ("--learning-rate", "-1"), ("--warmup-ratio", "1"), ("--dropout", "1"),
    ("--dropout", "-0.1"), ("--rank", "0"), ("--targets", "lm_head"), ("--schedule", "step"), ("--dtype", "fp16"),
])  # fmt: skip
def test_a_value_out_of_range_is_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(flag, value)
    assert f"argument {flag}: " in capsys.readouterr().err


def test_the_ends_of_a_range_are_accepted() -> None:
    args = parse("--max-steps", "0", "--warmup-ratio", "0", "--dropout", "0.99", "--learning-rate", "0", "--no-rslora")
    assert (args.max_steps, args.warmup_ratio, args.dropout, args.learning_rate) == (0, 0, 0.99, 0)


@pytest.mark.parametrize(("world", "copies", "fits"), [(2, False, True), (4, True, True), (4, False, False),
                                                       (3, True, False), (1, False, False)])  # fmt: skip
def test_processes_must_be_the_ranks_of_the_shards(shards, monkeypatch, world: int, copies: bool, fits: bool) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    if fits:
        flags.check_ranks(shards, copies)
    else:
        with pytest.raises(BadInput, match=f"has tp_size 2, but this run has {world} processes.*--nproc-per-node 2"):
            flags.check_ranks(shards, copies)


def test_a_missing_file_of_a_rank_is_named(shards, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    [_, last] = sorted(Path(shards.shards, "model").glob("*.pt"))
    last.rename(last.with_suffix(".away"))
    try:
        with pytest.raises(BadInput, match=f"{last} is missing; convert the checkpoint again"):
            flags.check_ranks(shards)
    finally:
        last.with_suffix(".away").rename(last)
