"""What a stage program says goes to the event stream, and as text to the log of the stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common import events


def test_the_log_has_what_the_stream_has_with_less_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    stream = tmp_path / "events.jsonl"
    monkeypatch.setenv("RUNNER_EVENTS", str(stream))
    monkeypatch.setattr(events, "_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(events, "_last_logged", float("-inf"))
    events.log("9 rows are too long", "warning")
    events.metric({"loss": 0.5}, at=3)
    for done in range(1, 1001):
        events.progress(done, 1000)
    told = [json.loads(line)["event"] for line in stream.read_text().splitlines()]
    assert told == ["log", "metric", *["progress"] * 1000]
    shown = capsys.readouterr().err.splitlines()
    assert shown[:3] == ["warning: 9 rows are too long", "[3] loss=0.5", "1/1000 step"]
    assert shown[-1] == "1000/1000 step" and len(shown) < 100
