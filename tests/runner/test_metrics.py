"""How metrics are written and compared."""

from __future__ import annotations

import math

import pytest

from runner import metrics
from runner.metrics import EVALUATION


def test_shares_are_percentages_and_their_change_is_in_points() -> None:
    accuracy, loss = EVALUATION["execution_accuracy"], EVALUATION["loss"]
    assert (accuracy.text(0.125), accuracy.change(0.125, 0.75)) == ("12.5%", "+62.5 points")
    assert (loss.text(1.23456), loss.change(1.5, 0.4)) == ("1.235", "-1.1")
    assert accuracy.sort_key(0.9) < accuracy.sort_key(0.1)
    assert loss.sort_key(0.1) < loss.sort_key(0.9)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], None),
        ([{}, {"other": 1.0}], None),
        ([{"adapter.loss": 1.0, "train.loss": 2.0}, {"adapter.loss": 1.0, "train.loss": 3.0}], "train.loss"),
        ([{"adapter.loss": 1.0}, {"adapter.loss": 1.0}], "adapter.loss"),
        ([{"adapter.loss": math.nan, "train.loss": 1.0}], "train.loss"),
    ],
)
def test_the_decisive_metric_is_the_first_in_which_runs_differ(runs: list[dict], expected: str | None) -> None:
    assert metrics.decisive(runs) == expected


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert metrics.duration(seconds) == text


def test_served_answers_that_differ_only_by_rounding_are_told_apart() -> None:
    smoke = {"equal_to_evaluation": 3, "prompts": 4, "differs_from_base": 2}
    assert metrics.served(smoke) == (
        "3 of 4 answers equal the evaluation's token for token, 2 differ from the base model's"
    )
    assert "1 part from it at a near tie, by rounding" in metrics.served({**smoke, "as_evaluated": 4})
