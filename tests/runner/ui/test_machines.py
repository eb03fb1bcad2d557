"""Machines that answer late, or never, delay no page."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.commands import questions
from runner.record.runs import Run
from runner.ui.index import Index
from runner.ui.machines import THREADS, Machines
from tests.runner.records import a_run


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which a program listens that never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def away(folder: Path, port: int, key: str) -> Run:
    """A run on another machine whose end is not known here."""
    run = a_run(folder, "target=ssh", f"target.host=127.0.0.1:{port}", f"name={key}", key=key)
    events = run.folder / "events.jsonl"
    events.write_text(events.read_text().splitlines(keepends=True)[0])
    (run.folder / "plan.json").write_text(json.dumps({**run.plan, "where": f"127.0.0.1:{port}"}))
    return Run(run.folder)


def answered() -> None:
    """Returns when nobody is being asked any more."""
    while asking := [thread for thread in threading.enumerate() if thread.name == THREADS]:
        for thread in asking:
            thread.join()


def test_the_answer_of_a_machine_is_news_of_a_later_request(
    tmp_path: Path, silent: int, closed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_PATIENCE", 1.0)
    runs = {port: away(tmp_path, port, str(port)) for port in (silent, closed)}
    index = Index(tmp_path / "runs", Machines())
    news = index.news()
    assert {row["state"] for row in news.rows} == {"away"}
    answered()
    rows = {row["run"]: row for row in index.news(news.revision).rows}
    assert rows[runs[closed].name]["state"] == "cannot be asked"
    assert rows[runs[closed].name]["reason"].startswith("target.host: ")
    assert rows[runs[silent].name]["state"].startswith("no answer within")


def test_a_damaged_recipe_of_one_run_is_not_asked_for(tmp_path: Path, closed: int) -> None:
    run = away(tmp_path, closed, "damaged")
    (run.folder / "recipe.yaml").write_text(":")
    index = Index(tmp_path / "runs", Machines())
    index.news()
    answered()
    assert [row["state"] for row in index.news().rows] == ["away"]
