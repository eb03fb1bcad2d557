"""Axes have round numbers, and values keep their order."""

from __future__ import annotations

import pytest

from runner.record.report import scale


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.13, 0.87], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([2.0, 2.0], (1.8, 1.9, 2.0, 2.1, 2.2)),
        ([-3e-5, 5e-5], (-4e-5, -2e-5, 0.0, 2e-5, 4e-5, 6e-5)),
    ],
)
def test_axes_have_round_numbers(values: list[float], ticks: tuple[float, ...]) -> None:
    assert scale.linear(values, 0, 100, count=4).ticks == pytest.approx(ticks)


def test_values_are_mapped_evenly_or_by_their_logarithm() -> None:
    even = scale.exact([1, 2, 4], 0, 90)
    assert [even(value) for value in (1, 2, 4)] == [0, 30, 90]
    logarithmic = scale.exact([1, 10, 100], 0, 90)
    assert [logarithmic(value) for value in (1, 10, 100)] == [0, 45, 90]


def test_steps_have_whole_ticks_within_their_range() -> None:
    assert scale.tight([3, 12], 0, 100).ticks == (4, 6, 8, 10, 12)
    assert scale.tight([5], 0, 100)(5) == 50
