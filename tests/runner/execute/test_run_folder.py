"""What the files in a run folder say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.execute import files, run_folder

EVENTS = """{"event": "run", "state": "started"}
{"event": "step", "stage": "convert", "state": "begun"}
{"event": "step", "stage": "train", "state": "begun"}
{"event": "step", "stage": "convert", "state": "finished", "seconds": 1.0}
{"event": "run", "state": "fin"""


def test_an_unfinished_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(EVENTS)
    assert len(list(run_folder.read_events(tmp_path))) == 4
    assert run_folder.last_state(tmp_path) == "started"
    assert run_folder.stage_states(tmp_path) == {"convert": "finished", "train": "begun"}


def test_events_of_a_kind_are_those_and_no_others_whatever_their_text_says(tmp_path: Path) -> None:
    message = {"event": "log", "level": "info", "message": '"event": "run"', "detail": {"event": "run"}}
    written = [
        {"event": "run", "state": "started"},
        message,
        {"event": "metric", "stage": "train", "at": 1, "values": {}},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in written))
    assert list(run_folder.read_events(tmp_path, "run")) == written[:1]
    assert list(run_folder.read_events(tmp_path, "run", "metric")) == [written[0], written[2]]
    assert list(run_folder.read_events(tmp_path)) == written


def test_the_time_of_a_run_is_from_its_first_event_to_its_last_whole_one(tmp_path: Path) -> None:
    assert run_folder.time_span(tmp_path) == (0.0, 0.0)
    lines = ['{"event": "ru', '{"event": "log", "level": "info", "message": "", "time": 5}', EVENTS.splitlines()[0]]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, lines[1].replace("5", "8"), lines[1].replace("5", "9")]))
    assert run_folder.time_span(tmp_path) == (5, 8)


def test_a_run_that_has_not_begun_has_no_state(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    assert run_folder.last_state(tmp_path) is None


def test_a_run_is_in_progress_while_its_lock_is_held(tmp_path: Path) -> None:
    assert not run_folder.in_progress(tmp_path)
    with (tmp_path / "lock").open("wb") as lock:
        files.lock(lock)
        assert run_folder.in_progress(tmp_path)  # also before the holder has written its id
        lock.write(str(os.getpid()).encode())
        lock.flush()
        assert run_folder.executor_pid(tmp_path) == os.getpid()
    assert not run_folder.in_progress(tmp_path)


def test_a_trial_is_named_after_its_sweep(tmp_path: Path) -> None:
    run = tmp_path / "sql" / "001"
    assert run_folder.run_name(run) == "001"
    run.mkdir(parents=True)
    (tmp_path / "sql" / "sweep.json").touch()
    assert run_folder.run_name(run) == "sql/001"


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"3", b'{"event": "step"}', b'{"event": ["a"]}', b"\xff\xfe", b"[" * 10**5,
     b'{"event": "metric", "stage": "train", "at": 1, "values": {"loss": "x"}}'],
)  # fmt: skip
def test_a_damaged_line_is_no_event(line: bytes) -> None:
    assert run_folder.parse_event(line) is None
