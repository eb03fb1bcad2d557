"""The record on this machine of a run elsewhere."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from runner.targets.mirror import Mirror, note, unpack

STARTED = b'{"event": "run", "state": "started"}'
FINISHED = b'{"event": "run", "state": "finished"}'


def packed(**files: str) -> bytes:
    """A tar with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


def test_a_line_that_a_kill_cut_short_is_received_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(STARTED + b"\n" + FINISHED[:9])
    with Mirror(path) as mirror:
        assert (mirror.lines, mirror.size, mirror.last_state) == ([STARTED], len(STARTED) + 1, "started")
        mirror.add(FINISHED)
        assert (mirror.size, mirror.last_state) == (len(STARTED + FINISHED) + 2, "finished")
    assert path.read_bytes() == STARTED + b"\n" + FINISHED + b"\n"


def test_of_two_followers_only_the_first_writes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.touch()
    with Mirror(path) as first, Mirror(path) as second:
        first.add(STARTED)
        second.add(FINISHED)
        assert second.size == len(FINISHED) + 1, "it knows where its stream continues"
    assert path.read_bytes() == STARTED + b"\n"


def test_results_are_added_to_the_record(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "kept.json").write_text("1")
    unpack(packed(**{"results/report.json": "{}"}), tmp_path)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"kept.json", "report.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["results"], "no temporary folder is left"


def test_an_interrupted_transfer_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    whole = packed(**{"results/report.json": "x" * 2000, "results/smoke.json": "y" * 2000})
    with pytest.raises(tarfile.TarError):
        unpack(whole[:4000], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_outside_of_the_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(tarfile.TarError):
        unpack(packed(**{"../outside": "x"}), tmp_path / "run")
    assert [path.name for path in tmp_path.rglob("*") if path.name != ".incoming"] == ["run"]


def test_a_note_is_a_warning_for_who_follows() -> None:
    assert json.loads(note("lost")) == {"event": "log", "level": "warning", "message": "lost"}
