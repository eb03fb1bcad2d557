"""When the stages of a run were at work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One attempt at a stage, in Unix time: from its beginning to its end, or to the last event of one killed."""

    stage: str
    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.begun


def attempts(events: Iterable[dict[str, Any]]) -> Iterator[Attempt]:
    """Every attempt in a stream of events, also those that were stopped, were interrupted or failed."""
    stage, begun, last = "", 0.0, 0.0
    for event in events:
        time = event.get("time", last)
        is_restart = event["event"] == "run" and event["state"] == "started"
        if stage and (event["event"] == "run" or event.get("state") in ("finished", "failed", "cached")):
            yield Attempt(stage, begun, last if is_restart else time)
            stage = ""
        elif event.get("state") == "begun":
            stage, begun = event["stage"], time
        last = time
    if stage:
        yield Attempt(stage, begun, last)


def without_pauses(made: Iterable[Attempt]) -> list[Attempt]:
    """The same attempts from time 0, on a clock that stands still while no stage is at work."""
    moved: list[Attempt] = []
    now = 0.0
    for attempt in made:
        moved.append(Attempt(attempt.stage, now, now + attempt.seconds))
        now += attempt.seconds
    return moved
