"""Runs are ranked by the objective of their sweep, or by the first metric in which they differ."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from records import a_run, a_sweep

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.record.ranking import Objective, objective, rank


def test_the_best_value_first_and_none_or_nan_last() -> None:
    values = [0.5, None, 0.75, math.nan, 0.25]
    assert sorted(values, key=Objective("train.loss", "minimize").sort_key)[:3] == [0.25, 0.5, 0.75]
    assert sorted(values, key=Objective("train.loss", "maximize").sort_key)[:3] == [0.75, 0.5, 0.25]


def test_runs_are_ranked_by_the_first_metric_in_which_they_differ(tmp_path: Path) -> None:
    losses = [(0.5, 0.1), (0.5, 0.05)]
    runs = [a_run(tmp_path, key=f"train-{n}", eval_loss_end=end, loss=loss) for n, (end, loss) in enumerate(losses)]
    by, ranked = rank(runs)
    assert by == Objective("train.loss", "minimize")
    assert [run for run, _ in ranked] == runs[::-1]


def test_trials_are_ranked_by_their_sweeps_objective(tmp_path: Path) -> None:
    a_sweep(tmp_path, "one", "train.loss", "maximize")
    runs = [a_run(tmp_path, trial=f"one/00{n}", key=f"train-{n}", loss=loss) for n, loss in enumerate((0.25, 0.5))]
    by, ranked = rank(runs)
    assert by == Objective("train.loss", "maximize")
    assert [metrics["train.loss"] for _, metrics in ranked] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Objective("adapter.execution_accuracy", "maximize")),
        (["evaluate=text"], Objective("adapter.exact_match", "maximize")),
        (["evaluate.metrics=[]"], Objective("adapter.loss", "minimize")),
        (["evaluate=none"], Objective("train.eval_loss_end", "minimize")),
        (["sweep.objective=adapter.loss"], Objective("adapter.loss", "minimize")),
        (["sweep.objective=train.loss", "sweep.direction=maximize"], Objective("train.loss", "maximize")),
    ],
)
def test_the_objective_is_the_recipes_or_the_first_that_it_measures(overrides: list[str], expected: Objective) -> None:
    assert objective(compose("quickstart", overrides).recipe) == expected


@pytest.mark.parametrize(
    ("overrides", "choices"), [(["evaluate.metrics=[sql]"], "adapter"), (["evaluate=none"], r"train\.eval_loss_end")]
)
def test_an_objective_that_is_not_measured_is_refused(overrides: list[str], choices: str) -> None:
    recipe = compose("quickstart", ["sweep.objective=adapter.rouge_l", *overrides]).recipe
    with pytest.raises(RecipeError, match=f"does not measure adapter.rouge_l; choose from .*{choices}"):
        objective(recipe)
