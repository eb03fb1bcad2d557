"""A report is one file that appears whole, and shows text as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import a_run, a_sweep

from runner.errors import RecipeError
from runner.record import report
from runner.record.report import page
from tests.runner.record.report_page import Page, page_of
from tests.runner.trained_run import sample, trained_run

HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&<!--"


def test_text_of_a_run_is_shown_and_never_becomes_markup(tmp_path: Path) -> None:
    run = trained_run(tmp_path, samples=[sample(HOSTILE)])
    page = page_of(tmp_path, run)
    assert page.texts.count(HOSTILE) == 4  # prompt, reference, base, adapter
    assert len(page.named("script")) == 1
    assert not page.named("img")


def test_a_report_lies_with_its_run_or_its_sweep_or_among_the_runs(tmp_path: Path) -> None:
    a_sweep(tmp_path, "sql")
    first, second = (a_run(tmp_path, key=f"train-{n}", trial=f"sql/00{n}") for n in range(2))
    runs = tmp_path / "runs"
    assert report.default_path([first], runs) == first.folder / "report.html"
    assert report.default_path([second, first], runs) == runs / "sweeps" / "sql" / "report.html"
    others = {report.default_path(chosen, runs) for chosen in ([first, first], [second, second])}
    assert {path.parent for path in others} == {runs / "reports"} and len(others) == 2


def test_a_comparison_links_to_the_reports_of_its_runs(tmp_path: Path) -> None:
    a_sweep(tmp_path, "sql")
    trials = [a_run(tmp_path, key=f"train-{n}", trial=f"sql/00{n}", loss=n) for n in range(2)]
    page = Page(report.write(trials, report.default_path(trials, tmp_path / "runs")))
    links = [link["href"] for link in page.named("a") if "report.html" in str(link["href"])]
    assert links == ["000/report.html", "001/report.html"]
    assert "Run sql/001" in Page(trials[1].folder / "report.html").text


def test_a_report_is_written_over_itself_and_nothing_else(tmp_path: Path) -> None:
    first, second = (a_run(tmp_path, key=f"train-{n}") for n in range(2))
    path = report.write([first], tmp_path / "out.html")
    report.check_free([first], path)
    report.check_free([first], tmp_path / "new.html")
    (tmp_path / "notes.html").write_text("my notes")
    for runs, taken in (([second], path), ([first], tmp_path / "notes.html"), ([first], tmp_path)):
        with pytest.raises(RecipeError, match="exists, and is no report of .*another --output"):
            report.check_free(runs, taken)


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained_run(tmp_path)
    path = report.write([run], tmp_path / "new folder" / "report.html")
    before = path.read_text()
    monkeypatch.setattr(page, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write([run], path)
    assert [file.read_text() for file in path.parent.iterdir()] == [before]
