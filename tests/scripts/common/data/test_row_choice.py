"""Which rows are trained on, and which are held out."""

from __future__ import annotations

import random

import numpy as np
import pytest

from common.data.row_choice import choose, shares
from common.program import BadInput


def rng() -> random.Random:
    return random.Random(0)


def test_a_row_is_trained_on_or_held_out_and_the_choice_depends_on_the_seed_alone() -> None:
    first, second = (choose({"a": 10}, None, 0, 3, rng()) for _ in range(2))
    assert np.array_equal(first.train, second.train)
    assert (first.train + first.held_out == 1).all() and first.held_out.sum() == 3
    assert not np.array_equal(first.train, choose({"a": 10}, None, 0, 3, random.Random(1)).train)


def test_a_number_of_rows_limits_those_to_train_on() -> None:
    choice = choose({"a": 10}, None, 4, 3, rng())
    assert (choice.train.sum(), choice.held_out.sum(), choice.sources) == (4, 3, [])


def test_sources_give_their_shares_and_repeat_rows_where_they_have_too_few() -> None:
    choice = choose({"a": 20, "b": 2}, [1, 1], 10, 0, rng())
    assert (choice.train[:20].sum(), choice.train[20:].sum()) == (5, 5)
    assert set(choice.train[20:]) == {2, 3}, "each row about as often as the others"
    assert list(choice.notes()) == ["b: 5 rows are used of 2, so some are repeated"]


def test_held_out_rows_have_the_shares_of_the_rows_to_train_on() -> None:
    choice = choose({"a": 1000, "b": 30, "c": 50}, [3, 1, 0], 40, 20, rng())
    for rows, held_out, trained in ((slice(1000), 15, 30), (slice(1000, 1030), 5, 10), (slice(1030, 1080), 0, 0)):
        assert (choice.held_out[rows].sum(), choice.train[rows].sum()) == (held_out, trained)
    assert choice.held_out.max() == 1 and not (choice.held_out & choice.train).any()


@pytest.mark.parametrize(
    ("available", "weights", "total", "expected"),
    [
        ([1000, 10], [3, 1], 0, [30, 10]),
        ([1000, 10], [3, 1], 100, [75, 25]),
        ([9, 9, 9], [1, 1, 1], 10, [4, 3, 3]),
        ([9, 9], [0, 1], 0, [0, 9]),
    ],
)
def test_shares_add_up(available: list[int], weights: list[float], total: int, expected: list[int]) -> None:
    found = shares(available, weights, total)
    assert sorted(found) == sorted(expected) and sum(found) == sum(expected)


@pytest.mark.parametrize(
    ("counts", "weights", "eval_rows", "message"),
    [
        ({"a": 3}, None, 3, "--eval-rows 3: there are 3 rows"),
        ({"a": 3, "b": 3}, [1], 0, r"--weights: there are 1 for 2 sources \(a, b\)"),
        ({"a": 3, "b": 0}, [1, 1], 0, "--weights: no row of b is left"),
        ({"a": 90, "b": 5}, [1, 1], 20, "no row of b is left .*: it has 5, and its share of --eval-rows 20 is 10"),
        ({"a": 3, "b": 3}, [0, 0], 0, "--weights: all are 0"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(counts, weights, eval_rows: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        choose(counts, weights, 0, eval_rows, rng())
