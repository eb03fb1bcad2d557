"""Which evaluation is the best, and how long there was no gain."""

from __future__ import annotations

import math

import pytest

from common.training import early_stopping

FALLS_THEN_RISES = [[10, 1.0], [20, 0.8], [30, 0.79], [40, 0.85]]


@pytest.mark.parametrize(
    ("evaluations", "step"), [(FALLS_THEN_RISES, 30), ([[1, 0.5], [2, 0.5]], 1), ([[1, math.nan], [2, 3.0]], 2)]
)
def test_the_best_is_the_first_of_the_lowest(evaluations: list[list[float]], step: int) -> None:
    assert early_stopping.best(evaluations)[0] == step


@pytest.mark.parametrize(
    ("evaluations", "threshold", "count"),
    [
        ([], 0.0, 0),
        (FALLS_THEN_RISES, 0.0, 1),
        (FALLS_THEN_RISES, 0.05, 2),
        ([[1, 0.5], [2, 0.5]], 0.0, 1),
        ([[1, 0.5], [2, math.nan], [3, 0.4]], 0.0, 0),
    ],
)
def test_only_a_fall_beyond_the_threshold_is_a_gain(
    evaluations: list[list[float]], threshold: float, count: int
) -> None:
    assert early_stopping.without_gain(evaluations, threshold) == count
