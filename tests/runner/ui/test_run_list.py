"""The list of runs."""

from __future__ import annotations

from tests.runner.ui.served import Browser


def test_a_folder_without_runs_has_an_empty_list(browser: Browser) -> None:
    assert "<h1>Runs</h1>" in browser.get("/").text
