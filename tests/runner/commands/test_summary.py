"""The summary of a run: figures, one example, and where its files are."""

from __future__ import annotations

import io
from pathlib import Path

from records import a_run
from rich.console import Console
from trained_run import sample, trained_run

from runner.commands import summary
from runner.record.runs import Run


def shown(run: Run) -> str:
    output = io.StringIO()
    summary.show(run, Console(file=output, width=160))
    return output.getvalue()


def next_of(run: Run) -> str:
    output = io.StringIO()
    summary.show_next(run, Console(file=output, width=160))
    return output.getvalue()


def test_the_base_model_and_the_adapter_are_compared(tmp_path: Path) -> None:
    output = shown(trained_run(tmp_path))
    assert "16 held-out examples" in output
    rows = {" ".join(line.split()[:-2]): line.split()[-2:] for line in output.splitlines() if line.strip()}
    assert rows["perplexity"] == ["4.48", "1.49"]
    assert ["12.5%", "75.0%"] in [[value.replace(" ", "") for value in values] for values in rows.values()]


def test_the_example_is_the_first_that_the_adapter_answers_exactly(tmp_path: Path) -> None:
    wrong, right = sample("first [question]"), sample("second [question]")
    wrong["reference"] = "something else"
    output = shown(trained_run(tmp_path, samples=[wrong, right, sample("third")]))
    assert "prompt   second [question]" in output
    assert "first [" not in output and "third\n" not in output


def test_if_no_answer_is_exact_the_first_example_is_shown(tmp_path: Path) -> None:
    samples = [{**sample(text), "reference": "something else"} for text in ("first", "second")]
    assert "adapter  first" in shown(trained_run(tmp_path, samples=samples))


def test_lines_of_an_example_are_indented(tmp_path: Path) -> None:
    assert "prompt   SELECT\n         1" in shown(trained_run(tmp_path, samples=[sample("SELECT\n1")]))


def test_a_run_without_an_evaluation_shows_where_it_is_recorded(tmp_path: Path) -> None:
    run = a_run(tmp_path, loss=0.25)
    assert shown(run) == f"run      {run.folder}\n"


def test_what_to_do_next_can_be_typed_from_where_the_user_is(tmp_path: Path, monkeypatch) -> None:
    run = a_run(tmp_path, stage="evaluate", key="evaluate-1")
    monkeypatch.chdir(tmp_path)
    assert next_of(run) == f"next     runner report {run.name}\n"
    monkeypatch.chdir(tmp_path / "runs")
    assert next_of(run) == f"next     runner report {run.folder.name}\n"
    monkeypatch.chdir("/")
    assert next_of(run) == f"next     runner report {run.folder.relative_to('/')}\n"


def test_an_exported_adapter_can_be_served_next(tmp_path: Path) -> None:
    run = a_run(tmp_path, stage="export", key="export-1")
    assert next_of(run) == f"next     runner serve {run.folder} --detach\n         runner ask\n"


def test_nothing_is_next_after_a_run_that_trained_nothing(tmp_path: Path) -> None:
    assert next_of(a_run(tmp_path, stage="tokenize", key="tokenize-1")) == ""
