"""How long a sweep will still take."""

from __future__ import annotations

import json
from pathlib import Path

from records import a_run

from runner.commands.sweep import remaining
from runner.record.runs import Run


def test_the_time_left_is_that_of_trials_like_those_that_ended(tmp_path: Path) -> None:
    done = timed(a_run(tmp_path, key="train-0", loss=1.0), 600)
    assert remaining.time_left([done], 4) == "", "no trial is running"
    assert remaining.seconds_left([done.seconds()], [60.0], size=4) == 3 * 600 - 60
    assert remaining.seconds_left([600.0], [60.0, 40.0], size=3) == (2 * 600 - 100) / 2


def timed(run: Run, seconds: float) -> Run:
    events = run.folder / "events.jsonl"
    first = {"event": "run", "state": "started", "time": 0.0}
    kept = [json.loads(line) for line in events.read_text().splitlines()]
    lines = [
        first,
        *({**event, "time": seconds} for event in kept or [{"event": "log", "level": "info", "message": ""}]),
    ]
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run
