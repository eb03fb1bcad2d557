"""Following a run through lost connections, and files that must fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from records import a_run

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.targets import mirrored
from runner.targets.mirrored import MirroredTarget, check_room
from runner.targets.transport.base import ConnectionLost

EVENTS = [
    {"event": "run", "state": "started"},
    {"event": "run", "state": "interrupted"},
    {"event": "run", "state": "finished"},
]


def test_a_lost_connection_is_noted_and_the_stream_continues_where_it_was(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mirrored, "_LONGEST_WAIT", 0.0)
    run = a_run(tmp_path, "target=ssh", "target.host=there")
    (run.folder / "events.jsonl").write_text("")

    class Flaky(type(targets.of_run(run))):  # type: ignore[misc]
        """Loses its connection after each event."""

        def new_events(self, run, mirror):
            def lines() -> Iterator[bytes]:
                for event in EVENTS[len((run.folder / "events.jsonl").read_bytes().splitlines()) :]:
                    line = json.dumps(event).encode()
                    mirror.add(line)
                    yield line
                    if event is not EVENTS[-1]:
                        raise ConnectionLost("cut")

            return lines

    target = Flaky(compose("quickstart", ["target=ssh", "target.host=there"]).recipe.target)
    assert isinstance(target, MirroredTarget)
    lines = list(map(json.loads, target.follow(run)))
    assert [line for line in lines if "message" not in line] == EVENTS
    notes = [line["message"] for line in lines if "message" in line]
    assert notes == ["there: connection lost (cut); the run continues. Retrying in 0 s"] * 2
    assert list(run.events()) == EVENTS


def test_files_that_would_not_fit_are_refused_with_the_key_to_set(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"0" * 1000)
    carried = {"inputs/weights": str(tmp_path / "weights")}
    check_room(carried, 1100, "/data", "target.folder")
    with pytest.raises(RecipeError, match="target.folder: /data has 0.0 GB free, .*or set target.folder"):
        check_room(carried, 1099, "/data", "target.folder")
