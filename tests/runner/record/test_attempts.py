"""When the stages of a run were at work."""

from __future__ import annotations

from typing import Any

from runner.record.attempts import Attempt, attempts, without_pauses

STARTED = {"event": "run", "state": "started"}


def step(stage: str, state: str, time: float) -> dict[str, Any]:
    return {"event": "step", "stage": stage, "state": state, "time": time}


def test_an_attempt_that_was_killed_ends_with_its_last_event_and_pauses_are_left_out() -> None:
    events = [
        {**STARTED, "time": 10.0}, step("fetch", "begun", 10.0), step("fetch", "finished", 12.0),
        step("train", "begun", 12.0), {"event": "progress", "done": 1, "time": 20.0},
        {**STARTED, "time": 1000.0}, step("fetch", "cached", 1000.0), step("train", "begun", 1000.5),
        step("train", "finished", 1030.5), step("export", "begun", 1031.0),
    ]  # fmt: skip
    made = list(attempts(events))
    assert made == [
        Attempt("fetch", 10.0, 12.0), Attempt("train", 12.0, 20.0), Attempt("train", 1000.5, 1030.5),
        Attempt("export", 1031.0, 1031.0),
    ]  # fmt: skip
    assert [(attempt.begun, attempt.ended) for attempt in without_pauses(made)] == [
        (0.0, 2.0), (2.0, 10.0), (10.0, 40.0), (40.0, 40.0),
    ]  # fmt: skip
