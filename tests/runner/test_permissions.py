"""Folders that a user may not read or write: one line, and nothing is taken for missing, let alone removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import unprivileged
from records import a_run

pytestmark = pytest.mark.skipif(not unprivileged.IS_BOUND, reason="root without setpriv")

READING = [
    "runs",
    "status",
    "show last",
    "compare last",
    "logs last",
    "export last out",
    "report last",
    "gc --gb 0",
    "ui --no-browser --port 0",
]
WRITING = ["run quickstart", "run quickstart -m train.lora.rank=4,8", "serve quickstart", "init project"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Two runs and what they made; everything can be removed again afterwards."""
    a_run(tmp_path, key="train-1", loss=1.0)
    a_run(tmp_path, key="train-2", loss=2.0)
    yield tmp_path
    for path in (tmp_path, *sorted((tmp_path / "runs").glob("*")), *(tmp_path / "store").glob("**")):
        path.chmod(0o755)


@pytest.mark.parametrize("words", READING)
def test_records_that_may_not_be_read_are_not_taken_for_none(folder: Path, words: str) -> None:
    (folder / "runs").chmod(0)
    status, output = unprivileged.runner(folder, *words.split())
    assert status in (1, 2) and "Permission denied" in output
    assert output.startswith("runner: ") and output.count("\n") == 1
    assert len(list((folder / "store" / "objects").iterdir())) == 2


def test_a_record_that_may_not_be_read_costs_one_line(folder: Path) -> None:
    hidden, shown = sorted((folder / "runs").glob("2*"))
    hidden.chmod(0)
    status, output = unprivileged.runner(folder, "runs")
    assert status == 0 and shown.name in output
    assert f"runner: runs/{hidden.name}/manifest.json: you may not read it: ask the owner of the run" in output
    assert "Traceback" not in output


def test_gc_removes_nothing_where_it_may_not_read_what_is_needed(folder: Path) -> None:
    next((folder / "runs").glob("2*")).chmod(0)
    status, output = unprivileged.runner(folder, "gc", "--unreachable")
    assert status == 2 and "Permission denied" in output and output.count("\n") == 1
    assert len(list((folder / "store" / "objects").iterdir())) == 2


def test_gc_of_a_store_that_may_not_be_written(folder: Path) -> None:
    for path in (folder / "store").glob("**"):
        path.chmod(0o555)
    status, output = unprivileged.runner(folder, "gc", "--gb", "0")
    assert status == 2 and output.count("\n") == 1
    assert "Permission denied; only who may write to the store" in output
    assert unprivileged.runner(folder, "gc", "--gb", "0", "--dry-run")[0] == 0


def test_verify_goes_on_after_a_damaged_artifact_that_cannot_be_moved_aside(folder: Path) -> None:
    for damaged in (folder / "store" / "objects").iterdir():
        for path in damaged.iterdir():
            path.unlink()
    for path in (folder / "store").glob("**"):
        path.chmod(0o555)
    status, output = unprivileged.runner(folder, "gc", "--verify")
    assert status == 1 and output.count("damaged: Permission denied") == 2


@pytest.mark.parametrize("words", WRITING)
def test_a_folder_that_may_not_be_written(folder: Path, words: str) -> None:
    for path in (folder / "runs", folder):
        path.chmod(0o555)
    status, output = unprivileged.runner(folder, *words.split())
    assert status in (1, 2) and output.count("\n") == 1 and "Permission denied" in output
