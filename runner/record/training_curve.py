"""How a training went, step by step, from the event streams of the runs that did it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from runner.record import runs
from runner.record.runs import Run

Values = dict[str, float]


def steps(run: Run) -> dict[int, Values]:
    """The training's metrics by step, in order of the steps; values that are not finite are left out.

    Steps that this run did not do, because an earlier one had (all of them, or those up to a checkpoint), are
    taken from the runs beside it that worked on the same artifact.
    """
    done = _recorded([run])
    if min(done, default=2) > 1:
        done = {**_recorded(_of_the_same_artifact(run)), **done}
    return dict(sorted(done.items()))


def is_training_step(event: dict[str, Any]) -> bool:
    """Whether an event tells the metrics of a training step."""
    return event["event"] == "metric" and event["stage"] == "train" and bool(event["at"])


def finite(values: Values) -> Values:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _recorded(several: Iterable[Run]) -> dict[int, Values]:
    events = (event for run in several for event in run.events())
    return {event["at"]: finite(event["values"]) for event in events if is_training_step(event)}


def _of_the_same_artifact(run: Run) -> list[Run]:
    key = _artifact(run)
    return [other for other in runs.every(run.folder.parent) if key and _artifact(other) == key]


def _artifact(run: Run) -> str | None:
    return next((step["key"] for step in run.plan["steps"] if step["stage"] == "train"), None)
