"""The event stream: written also on a full disk, printed as it grows."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execute import run_folder
from runner.execute.events import EventWriter
from tests.runner.execute.small_plans import step


def test_an_echo_is_the_whole_stream_with_its_offsets_also_when_a_run_goes_on(tmp_path: Path) -> None:
    plan, store = tmp_path / "plan.json", tmp_path / "store"
    (tmp_path / "events.jsonl").touch()
    plan.write_text(json.dumps({"store": str(store), "steps": [step(store, "train", "pass")]}))
    for times in (1, 2):
        command = [sys.executable, "-m", "runner.execute", str(plan), "--run", str(tmp_path), "--echo"]
        printed = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
        offsets, lines = zip(*(line.split(b" ", 1) for line in printed), strict=True)
        assert b"\n".join(lines) + b"\n" == (tmp_path / "events.jsonl").read_bytes()
        assert list(map(int, offsets)) == [sum(len(line) + 1 for line in lines[:n]) for n in range(len(lines))]
        assert [json.loads(line).get("state") for line in lines].count("started") == times


def test_the_end_of_a_run_is_written_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(tmp_path / "events.jsonl")
    append = writer._append

    def full(line: str) -> None:
        if (tmp_path / "reserved-space").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(line)

    monkeypatch.setattr(writer, "_append", full)
    writer.emit("run", state="failed")
    assert json.loads((tmp_path / "events.jsonl").read_text())["state"] == "failed"


def test_another_error_is_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EventWriter(tmp_path / "missing" / "events.jsonl").emit("run")


FILL = """
import resource, sys
from pathlib import Path
from runner.execute.events import EventWriter
writer = EventWriter(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (250, resource.RLIM_INFINITY))
try:
    for number in range(100):
        writer.emit("log", level="info", message=str(number))
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.emit("run", state="failed", status=1)
"""


def test_a_line_that_a_full_disk_cut_short_takes_no_other_with_it(tmp_path: Path) -> None:
    stream = tmp_path / "events.jsonl"
    subprocess.run([sys.executable, "-c", FILL, str(stream)], check=True)
    assert run_folder.last_state(tmp_path) == "failed"
    complete = [run_folder.parse_event(line) for line in stream.read_bytes().splitlines()]
    assert complete.count(None) == 1 and complete[0] and complete[0]["message"] == "0"
