"""How long a sweep will still take."""

from __future__ import annotations

from collections.abc import Sequence

from runner.metrics import duration
from runner.record.runs import ACTIVE, Run

ENDED = ("finished", "pruned", "failed")  # states of trials that will not go on


def time_left(trials: Sequence[Run], size: int) -> str:
    """How long a sweep in progress will take from now on, if its other trials take as long as those that ended."""
    ended = [run.seconds() for run in trials if run.state in ENDED]
    active = [run.seconds() for run in trials if run.state in ACTIVE]
    if not ended or not active:
        return ""
    each, left = sum(ended) / len(ended), seconds_left(ended, active, size)
    return f"about {duration(left)}, at {duration(each)} a trial and {len(active)} at a time"


def seconds_left(ended: Sequence[float], active: Sequence[float], size: int) -> float:
    """The seconds until all `size` trials have ended, from those of the trials that ended and that are active."""
    each = sum(ended) / len(ended)
    return max(0.0, each * (size - len(ended)) - sum(active)) / len(active)
