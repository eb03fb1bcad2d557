"""Which rows of which source are trained on, and how often, and which are held out."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from common.program import BadInput


class Choice(NamedTuple):
    """How often each row is trained on, and whether it is held out, all sources one after the other.

    Attributes:
        sources: of a mixture the name of each source, its rows, and how many are used.
    """

    train: np.ndarray
    held_out: np.ndarray
    sources: list[dict[str, Any]]

    def notes(self) -> Iterator[str]:
        """Which sources are repeated."""
        for source in self.sources:
            if source["used"] > source["rows"]:
                yield f"{source['name']}: {source['used']} rows are used of {source['rows']}, so some are repeated"


def choose(
    counts: Mapping[str, int], weights: Sequence[float] | None, train_rows: int, eval_rows: int, rng: random.Random
) -> Choice:
    """Choose rows at random: `eval_rows` of all to hold out, and of the others `train_rows`, or all if that is 0.

    `counts` are the rows of each source. Each gives its share of the rows to train on by `weights`; without a number
    of rows, as many as there are without repeating one. Raises BadInput.
    """
    total = sum(counts.values())
    if eval_rows >= total:
        raise BadInput(f"--eval-rows {eval_rows}: there are {total} rows, so nothing would be left to train on")
    order = np.array(rng.sample(range(total), total))
    train, held_out = np.zeros(total, np.uint32), np.zeros(total, np.uint32)
    held_out[order[:eval_rows]] = 1
    order = order[eval_rows:]
    if weights is None:
        train[order[: train_rows or total]] = 1
    else:
        _choose_by_weights(train, order, counts, weights, train_rows)
    return Choice(train, held_out, _sources(counts, train, held_out) if len(counts) > 1 else [])


def _choose_by_weights(
    train: np.ndarray, order: np.ndarray, counts: Mapping[str, int], weights: Sequence[float], train_rows: int
) -> None:
    if len(weights) != len(counts):
        raise BadInput(f"--weights: there are {len(weights)} for {len(counts)} sources ({', '.join(counts)})")
    ends = list(accumulate(counts.values()))
    sources = np.searchsorted(ends, order, side="right")
    of_source = [order[sources == number] for number in range(len(ends))]
    for name, rows, weight in zip(counts, of_source, weights, strict=True):
        if weight and not len(rows):
            raise BadInput(f"--weights: no row of {name} is left to train on")
    for rows, wanted in zip(of_source, shares([len(rows) for rows in of_source], weights, train_rows), strict=True):
        if wanted:
            whole, rest = divmod(wanted, len(rows))
            train[rows] = whole
            train[rows[:rest]] += 1


def shares(available: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """How many rows each source gives, `total` together; for 0, as many as there are without repeating one.

    >>> shares([1000, 10], [3, 1], 0), shares([1000, 10], [3, 1], 100)
    ([30, 10], [75, 25])
    """
    parts = [weight / sum(weights) for weight in weights] if sum(weights) else []
    if not parts:
        raise BadInput("--weights: all are 0")
    if not total:
        total = math.floor(min(rows / part for rows, part in zip(available, parts, strict=True) if part) + 1e-9)
    wanted = [math.floor(part * total + 1e-9) for part in parts]
    fractions = sorted(range(len(parts)), key=lambda number: wanted[number] - parts[number] * total)
    for number in fractions[: total - sum(wanted)]:
        wanted[number] += 1
    return wanted


def _sources(counts: Mapping[str, int], train: np.ndarray, held_out: np.ndarray) -> list[dict[str, Any]]:
    ends = [0, *accumulate(counts.values())]
    return [
        {
            "name": name,
            "rows": counts[name] - int(held_out[start:end].sum()),
            "used": int(train[start:end].sum()),
        }
        for name, start, end in zip(counts, ends, ends[1:], strict=False)
    ]
