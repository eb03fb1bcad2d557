"""What the list knows of runs, and when it reads their records again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.commands.progress import last_progress
from runner.commands.records import as_json, headline
from runner.execute import files
from runner.execute.run_folder import LOCK
from runner.record.runs import Run
from runner.ui.index import DAMAGED, Index, sparkline
from runner.ui.machines import Machines
from tests.runner.records import a_run, a_sweep, start_at
from tests.runner.trained_run import trained_run


def rows_of(index: Index, since: int = 0) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in index.news(since).rows}


def test_a_row_has_what_the_commands_show(tmp_path: Path) -> None:
    run = trained_run(tmp_path, "train.lora.rank=4")
    row = rows_of(Index(tmp_path / "runs", Machines()))[run.name]
    summary, progress = as_json(run), last_progress(run.events())
    for name in ("state", "recipe", "overrides", "started", "seconds"):
        assert row[name] == summary[name]
    assert (row["stage"], row["loss"]) == (progress.stage, progress.loss)
    assert row["result"] == headline(run) == "execution accuracy 75.0%"
    assert row["curve"][0] == 1.0 and len(row["curve"]) == 12


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    run = trained_run(tmp_path, fails=True)
    row = rows_of(Index(tmp_path / "runs", Machines()))[run.name]
    assert (row["state"], row["reason"].startswith("export: no & good")) == ("failed", True)


def test_a_damaged_record_is_a_row_that_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run.folder / "manifest.json").write_text("{")
    row = rows_of(Index(tmp_path / "runs", Machines()))[run.name]
    assert row["state"] == DAMAGED and "manifest.json: cannot be parsed" in row["reason"]


def test_a_trial_names_its_sweep(tmp_path: Path) -> None:
    a_sweep(tmp_path, "s")
    a_run(tmp_path, trial="s/000", loss=0.5)
    assert rows_of(Index(tmp_path / "runs", Machines()))["s/000"]["sweep"] == "s"


def test_only_what_changed_is_news(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, key="a", loss=0.5), a_run(tmp_path, key="b", loss=0.4)
    index = Index(tmp_path / "runs", Machines())
    news = index.news()
    assert {row["run"] for row in news.rows} == {first.name, second.name}
    assert index.news(news.revision).rows == []
    start_at(second, "2020-01-01T00:00:00+00:00")
    (second.folder / "note").touch()  # as by a file that takes the place of another
    assert rows_of(index, news.revision)[second.name]["started"].startswith("2020")


def test_a_record_that_did_not_change_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path, loss=0.5)
    index = Index(tmp_path / "runs", Machines())
    before = index.news()

    def read(_: Run) -> None:
        raise AssertionError("the record was read again")

    monkeypatch.setattr(Run, "events", read)
    assert index.news() == before


def test_a_run_that_was_killed_stops_running(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    events = run.folder / "events.jsonl"
    events.write_text("".join(f"{json.dumps(event)}\n" for event in run.events() if event["event"] != "run"))
    index = Index(tmp_path / "runs", Machines())
    with (run.folder / LOCK).open("wb") as lock:
        assert files.try_lock(lock)
        news = index.news()
        assert [row["state"] for row in news.rows] == ["running"]
    assert [row["state"] for row in index.news(news.revision).rows] == ["killed"]


def test_a_run_that_was_removed_is_no_longer_counted(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    index = Index(tmp_path / "runs", Machines())
    assert index.news().total == 1
    run.folder.rename(tmp_path / "elsewhere")
    assert (index.news().total, index.news().rows) == (0, [])


def test_no_request_waits_for_all_records(tmp_path: Path) -> None:
    for key in "abc":
        a_run(tmp_path, key=key)
    index = Index(tmp_path / "runs", Machines())
    assert (index.news(budget=-1).rows, index.news(budget=-1).unread) == ([], 3)
    assert index.news(budget=60).unread == 0


def test_a_sparkline_keeps_the_last_loss() -> None:
    steps = ({"event": "metric", "stage": "train", "at": at, "values": {"loss": 1 / at}} for at in range(1, 5001))
    curve = sparkline(steps)
    assert len(curve) <= 60 and curve[-1] == 0.0002
