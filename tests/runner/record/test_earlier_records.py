"""A record and a store that version 5feb0d7 made are read as today's are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner.cli import main

NAME = "20261125-191323-quickstart"
EARLIER = Path(__file__).parents[2] / "data" / "records" / NAME
KEYS = [step["key"] for step in json.loads((EARLIER / "plan.json").read_text())["steps"]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(EARLIER, tmp_path / "runs" / NAME)
    for key in KEYS:
        (tmp_path / "store" / "objects" / key).mkdir(parents=True)
        (tmp_path / "store" / "objects" / key / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("runs", "finished"),
        ("show last", "held-out loss"),
        ("status", "No runs are in progress."),
        ("compare last", "1.5"),
        ("diff last quickstart", "train.warmup_ratio"),
        ("report last", "report.html"),
    ],
)
def test_a_command_reads_it(work: Path, capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    assert main(words.split()) == 0
    output = capsys.readouterr()
    assert expected in output.out
    assert "damaged" not in output.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [("rerun last", "model.path: "), ("export last out", "run its recipe again")],
)
def test_what_it_lacks_is_one_line(work: Path, capsys: pytest.CaptureFixture[str], words: str, expected: str) -> None:
    assert main(words.split()) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert expected in line


def test_gc_keeps_what_it_made(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "store" / "objects" / "train-unreachable").mkdir()
    assert main(["gc", "--unreachable"]) == 0
    assert {path.name for path in (work / "store" / "objects").iterdir()} == set(KEYS)
    assert main(["gc", "--verify"]) == 0
    assert f"{len(KEYS)} of an earlier version without digests" in capsys.readouterr().out
