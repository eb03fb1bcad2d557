"""What the attempts of a run achieved, by its events; a scheduler may start it often. Standard library alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Event = Mapping[str, Any]


def current(events: Iterable[Event]) -> list[Event]:
    """The events since the run was last started."""
    return _split(events)[-1]


def interrupted_itself(events: Iterable[Event], stage: str) -> bool:
    """Whether the stage's program reported in this attempt that a signal ended it."""
    return any(event["event"] == "interrupted" and event["stage"] == stage for event in current(events))


def stalled(events: Iterable[Event]) -> bool:
    """Whether this attempt and the one before it, which was interrupted, left nothing to resume from."""
    *_, before, now = _split(events)
    return _was_interrupted(before) and not _progressed(before) and not _progressed(now)


def _split(events: Iterable[Event]) -> list[list[Event]]:
    """The events before the first attempt, and those of each attempt."""
    attempts: list[list[Event]] = [[]]
    for event in events:
        if event["event"] == "run" and event["state"] == "started":
            attempts.append([])
        attempts[-1].append(event)
    return attempts


def _was_interrupted(attempt: list[Event]) -> bool:
    return any(event["event"] == "run" and event["state"] == "interrupted" for event in attempt)


def _progressed(attempt: list[Event]) -> bool:
    return any(event["event"] == "checkpoint" or event.get("state") == "finished" for event in attempt)
