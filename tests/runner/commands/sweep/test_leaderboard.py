"""The table of a sweep's trials."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from records import a_run
from rich.console import Console

from runner.commands.sweep import leaderboard
from runner.record.ranking import Objective


def table(trials: list, objective: Objective, keys: list[str]) -> list[list[str]]:
    """The cells of the table, row by row, after its title."""
    output = io.StringIO()
    leaderboard.show(trials, objective, keys, Console(file=output, width=200))
    return [line.split() for line in output.getvalue().splitlines()[1:] if line.strip(" ─")]


@pytest.mark.parametrize(("direction", "seeds"), [("minimize", ["1", "2", "0"]), ("maximize", ["2", "1", "0"])])
def test_the_best_trial_is_first_and_one_without_the_metric_last(tmp_path: Path, direction: str, seeds: list) -> None:
    trials = [
        a_run(tmp_path, "train.seed=0", key="train-0", other=1.0),
        a_run(tmp_path, "train.seed=1", key="train-1", loss=0.25),
        a_run(tmp_path, "train.seed=2", key="train-2", loss=0.75),
    ]
    headings, *rows = table(trials, Objective("train.loss", direction), ["train.seed"])
    assert headings == ["trial", "seed", "loss", "seconds", "state"]
    assert [row[1] for row in rows] == seeds
    assert rows[-1][2] == "-"


def test_keys_that_end_alike_are_shown_whole(tmp_path: Path) -> None:
    trial = a_run(tmp_path, "train.seed=1", "evaluate.metrics=[]", loss=0.25)
    headings, _ = table([trial], Objective("train.loss", "minimize"), ["train.seed", "sweep.seed"])
    assert headings[1:4] == ["train.seed", "sweep.seed", "train.loss"]


def test_long_fractions_are_rounded_and_other_values_are_not() -> None:
    values = ["train.learning_rate=0.00038177675111", "train.lora.rank=16", "name='v1.00005'", "model=a=b"]
    assert leaderboard.values_of(values) == {
        "train.learning_rate": "0.0003818", "train.lora.rank": "16", "name": "v1.00005", "model": "a=b"
    }  # fmt: skip
