"""Machines that answer late, or never, delay no page."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from runner.commands import questions
from runner.ui.index import Index
from runner.ui.machines import THREADS, Machines
from tests.runner.records import away


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
