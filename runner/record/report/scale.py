"""Maps values to places on a chart, and chooses round numbers for its axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps the values `low`..`high` to the places `start`..`end`, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)


def linear(values: Iterable[float], start: float, end: float, *, zero: bool = False, count: int = 5) -> Scale:
    """A scale over `values`, widened to round numbers; with `zero` it includes 0."""
    known = [*values, 0.0] if zero else list(values)
    low, high = min(known), max(known)
    if low == high:
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    step = _round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def exact(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale from the smallest to the largest value with a tick at each: for a key with few values.

    Logarithmic where all values are positive and span more than a factor of 8.
    """
    low, high = min(values), max(values)
    log = low > 0 and high / low > 8
    if low == high:
        low, high = low - 1, high + 1
    return Scale(low, high, start, end, tuple(sorted(set(values))), log)


def tight(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale from the smallest to the largest value with round ticks between them: for steps."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1, high + 1
    step = max(_round_step((high - low) / 6), 1)
    ticks = (number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1))
    return Scale(low, high, start, end, tuple(ticks))


def text(value: float) -> str:
    """A tick's label.

    >>> [text(value) for value in (0.0002, 0.5, 3.0, 12000.0)]
    ['0.0002', '0.5', '3', '12,000']
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _round_step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
