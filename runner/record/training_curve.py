"""The course of a training, step by step, from the event streams of the runs that did it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from runner.record import runs
from runner.record.runs import Run

Values = dict[str, float]


def steps(run: Run) -> dict[int, Values]:
    """The metrics of the training by step, in order; values that are not finite are left out.

    Steps that an earlier run did (all, or those up to a checkpoint) are taken from the runs beside this one that worked
    on the same artifact.
    """
    own = _recorded([run])
    if min(own, default=2) > 1:
        own = {**_recorded(_runs_of_same_artifact(run)), **own}
    return dict(sorted(own.items()))


def is_training_step(event: dict[str, Any]) -> bool:
    """Whether an event holds the metrics of a training step."""
    return event["event"] == "metric" and event["stage"] == "train" and bool(event["at"])


def finite(values: Values) -> Values:
    """The values without infinities and NaN."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _recorded(recorded: Iterable[Run]) -> dict[int, Values]:
    curve: dict[int, Values] = {}
    for event in (event for run in recorded for event in run.events() if is_training_step(event)):
        curve.setdefault(event["at"], {}).update(finite(event["values"]))
    return curve


def _runs_of_same_artifact(run: Run) -> list[Run]:
    key = _artifact(run)
    others = runs.readable(runs.every(run.folder.parent), lambda other: other.plan) if key else []
    return [other for other in others if _artifact(other) == key]


def _artifact(run: Run) -> str | None:
    return next((step["key"] for step in run.plan["steps"] if step["stage"] == "train"), None)
