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

    `counts` are the rows of each source. By `weights` each gives its share of the rows to train on (without a number of
    rows, as many as there are without repeating one) and of those to hold out. Raises BadInput.
    """
    total = sum(counts.values())
    if eval_rows >= total:
        raise BadInput(f"--eval-rows {eval_rows}: there are {total} rows, so nothing would be left to train on")
    order = np.array(rng.sample(range(total), total))
    train, held_out = np.zeros(total, np.uint32), np.zeros(total, np.uint32)
    if weights is None:
        held_out[order[:eval_rows]] = 1
        train[order[eval_rows:][: train_rows or total]] = 1
    else:
        of_source = _by_source(order, counts, weights)
        _hold_out_by_weights(held_out, dict(zip(counts, of_source, strict=True)), weights, eval_rows)
        _train_by_weights(train, [rows[held_out[rows] == 0] for rows in of_source], weights, train_rows)
    return Choice(train, held_out, _sources(counts, train, held_out) if len(counts) > 1 else [])


def _by_source(order: np.ndarray, counts: Mapping[str, int], weights: Sequence[float]) -> list[np.ndarray]:
    if len(weights) != len(counts):
        raise BadInput(f"--weights: there are {len(weights)} for {len(counts)} sources ({', '.join(counts)})")
    ends = list(accumulate(counts.values()))
    sources = np.searchsorted(ends, order, side="right")
    return [order[sources == number] for number in range(len(ends))]


def _hold_out_by_weights(
    held_out: np.ndarray, of_source: Mapping[str, np.ndarray], weights: Sequence[float], eval_rows: int
) -> None:
    available = [len(rows) for rows in of_source.values()]
    wanted = shares(available, weights, eval_rows) if eval_rows else [0] * len(available)
    for (name, rows), weight, count in zip(of_source.items(), weights, wanted, strict=True):
        if weight and count >= len(rows):
            raise BadInput(
                f"--weights: no row of {name} is left to train on: it has {len(rows)}, and its share of --eval-rows "
                f"{eval_rows} is {count}"
            )
        held_out[rows[:count]] = 1


def _train_by_weights(
    train: np.ndarray, of_source: Sequence[np.ndarray], weights: Sequence[float], train_rows: int
) -> None:
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
