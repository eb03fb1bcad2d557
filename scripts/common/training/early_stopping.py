"""Which evaluation of a training was the best, and when to stop waiting for a better one.

An evaluation is [step, loss]; they are in order of their steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Evaluations = Sequence[Sequence[float]]


def best(evaluations: Evaluations) -> Sequence[float]:
    """The evaluation with the lowest loss, the first of equal ones."""
    return min(evaluations, key=lambda evaluation: evaluation[1] if math.isfinite(evaluation[1]) else math.inf)


def without_gain(evaluations: Evaluations, threshold: float) -> int:
    """How many evaluations there were since the loss last fell by more than `threshold` below the lowest before.

    This is the rule of transformers' EarlyStoppingCallback.

    >>> without_gain([[10, 1.0], [20, 0.8], [30, 0.79], [40, 0.85]], threshold=0.05)
    2
    """
    lowest, count = math.inf, 0
    for _, loss in evaluations:
        count = 0 if lowest - loss > threshold else count + 1
        lowest = min(lowest, loss)
    return count
