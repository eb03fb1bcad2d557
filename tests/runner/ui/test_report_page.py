"""The report, on a page of its own."""

from __future__ import annotations

from pathlib import Path

from runner.record import report
from tests.runner.trained_run import trained_run
from tests.runner.ui.served import Browser


def test_it_is_what_the_command_writes_in_a_sandbox(browser: Browser, tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    answer = browser.get(f"/report?run={run.name}")
    assert answer.text == report.write([run], tmp_path / "report.html").read_text()
    assert answer.headers["Content-Security-Policy"] == "sandbox allow-scripts"


def test_without_a_run_there_is_none(browser: Browser) -> None:
    assert browser.get("/report").status == 400
    assert browser.get("/report?run=nothing").status == 404
