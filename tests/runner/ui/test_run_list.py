"""The list of runs."""

from __future__ import annotations

from pathlib import Path

from tests.runner.records import a_run
from tests.runner.ui.served import Browser


def test_a_folder_without_runs_has_an_empty_list(browser: Browser) -> None:
    assert "<h1>Runs</h1>" in browser.get("/").text
    assert browser.get("/api/runs").json() == {"revision": 0, "rows": [], "total": 0, "unread": 0}


def test_the_list_grows_while_it_is_open(browser: Browser, tmp_path: Path) -> None:
    first = a_run(tmp_path, key="a")
    news = browser.get("/api/runs").json()
    assert [row["run"] for row in news["rows"]] == [first.name]
    second = a_run(tmp_path, key="b")
    later = browser.get(f"/api/runs?since={news['revision']}").json()
    assert ([row["run"] for row in later["rows"]], later["total"]) == ([second.name], 2)


def test_a_revision_that_is_no_number_means_all(browser: Browser, tmp_path: Path) -> None:
    a_run(tmp_path)
    assert len(browser.get("/api/runs?since=yesterday").json()["rows"]) == 1
