"""How long a sweep will still take."""

from __future__ import annotations

from collections.abc import Sequence

from runner.metrics import duration
from runner.record.runs import ACTIVE, Run

_ENDED = ("finished", "pruned", "failed")  # states of trials that will not go on


def time_left(trials: Sequence[Run], size: int) -> str:
    """How long a sweep in progress will take from now on, if its other trials take as long as those that ended."""
    ended, active = seconds_of(trials)
    if not ended or not active:
        return ""
    each, left = sum(ended) / len(ended), seconds_left(ended, active, size)
    return f"about {duration(left)}, at {duration(each)} a trial and {len(active)} at a time"


def seconds_of(trials: Sequence[Run]) -> tuple[list[float], list[float]]:
    """The seconds of the trials that ended, and of those that are active."""
    ended = [run.seconds() for run in trials if run.state in _ENDED]
    return ended, [run.seconds() for run in trials if run.state in ACTIVE]


def seconds_left(ended: Sequence[float], active: Sequence[float], size: int) -> float:
    """The seconds until all `size` trials have ended, from those of the trials that ended and that are active."""
    each = sum(ended) / len(ended)
    return max(0.0, each * (size - len(ended)) - sum(active)) / len(active)
