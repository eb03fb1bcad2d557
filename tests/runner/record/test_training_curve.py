"""The course of a training is told whole, whichever run did which part of it."""

from __future__ import annotations

from pathlib import Path

from runner.record import training_curve
from tests.runner.trained_run import trained_run


def test_a_run_tells_its_own_steps(tmp_path: Path) -> None:
    steps = training_curve.steps(trained_run(tmp_path, steps=range(1, 4)))
    assert {at: values["loss"] for at, values in steps.items()} == {1: 1.0, 2: 0.5, 3: 1 / 3}


def test_a_cached_training_is_told_from_the_run_that_did_it(tmp_path: Path) -> None:
    trained_run(tmp_path, key="other", steps=range(1, 3))
    trained_run(tmp_path, steps=range(1, 6))
    again = trained_run(tmp_path, steps=range(1, 6))
    assert again.stages()["train"]["state"] == "cached"
    assert list(training_curve.steps(again)) == [1, 2, 3, 4, 5]


def test_a_continued_training_begins_at_its_first_step(tmp_path: Path) -> None:
    before = trained_run(tmp_path, steps=range(1, 6))
    (tmp_path / "store" / "objects" / "train-1").rename(tmp_path / "gone")
    after = trained_run(tmp_path, steps=range(4, 9))
    assert list(training_curve.steps(after)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(training_curve.steps(before)) == [1, 2, 3, 4, 5]


def test_an_evaluation_belongs_to_its_step(tmp_path: Path) -> None:
    steps = training_curve.steps(trained_run(tmp_path, steps=range(1, 4), evaluations=((2, 0.7),)))
    assert steps[2]["eval_loss"] == 0.7
    assert steps[2]["loss"] == 0.5


def test_values_that_are_not_finite_are_left_out() -> None:
    assert training_curve.finite({"loss": float("nan"), "grad_norm": float("inf"), "learning_rate": 0.1}) == {
        "learning_rate": 0.1
    }
