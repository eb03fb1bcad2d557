"""A report is one file that appears whole, and shows text as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.record import report
from runner.record.report import page
from runner.record.runs import Run
from tests.runner.record.report_page import page_of
from tests.runner.trained_run import sample, trained_run

HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&<!--"


def test_text_of_a_run_is_shown_and_never_becomes_markup(tmp_path: Path) -> None:
    run = trained_run(tmp_path, samples=[sample(HOSTILE)])
    page = page_of(tmp_path, run)
    assert page.texts.count(HOSTILE) == 4  # prompt, reference, base, adapter
    assert len(page.named("script")) == 1
    assert not page.named("img")


def test_one_run_keeps_its_report_and_several_have_it_here(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    assert report.default_path([run]) == tmp_path / "a" / "report.html"
    assert report.default_path([run, run]) == Path("report.html")


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_run(tmp_path)
    path = report.write([run], tmp_path / "new folder" / "report.html")
    before = path.read_text()
    monkeypatch.setattr(page, "render", lambda document: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write([run], path)
    assert [file.read_text() for file in path.parent.iterdir()] == [before]
