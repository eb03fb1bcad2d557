"""Tables of recorded runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from records import a_run, ended
from rich.console import Console
from trained_run import trained_run

from runner.cli import main
from runner.commands import records


def test_a_failed_run_shows_its_reason_and_the_end_of_its_log(tmp_path: Path, capsys) -> None:
    run = ended(tmp_path, "print(*range(100), sep='\\n'); exit('no & good')")
    assert main(["show", run.name, "--in", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "failed   train: no & good (exit status 1" in output
    shown = [line.strip() for line in output.splitlines() if line.startswith("    ")]
    assert shown[-10:] == [*map(str, range(91, 100)), "no & good"]


def test_a_run_is_shown_with_its_stages_and_its_overrides(tmp_path: Path, capsys) -> None:
    run = trained_run(tmp_path, "train.lora.rank=4")
    assert main(["show", str(run.folder)]) == 0
    output = capsys.readouterr().out
    assert f"run      {run.name}\nstate    finished\n" in output
    assert "train.lora.rank=4" in output
    states = {line.split()[0]: line.split()[1] for line in output.splitlines() if line.rstrip().endswith("-1")}
    assert states == {"tokenize": "finished", "train": "finished", "evaluate": "finished"}


def test_a_folder_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--in", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "No runs yet.\n"


def test_a_run_differs_from_its_recipe_in_its_overrides(tmp_path: Path, capsys) -> None:
    run = a_run(tmp_path, "train.lora.rank=4")
    assert main(["diff", "quickstart", run.name, "--in", str(tmp_path / "runs")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    changed = {row[0]: row[1:] for row in rows if row and "." in row[0]}
    assert changed.keys() == {"train.lora.rank", "paths.runs", "paths.store"}
    assert changed["train.lora.rank"][1] == "4"


def test_keys_that_differ_are_shown_in_the_words_of_a_recipe(tmp_path: Path, capsys) -> None:
    runs = [a_run(tmp_path, "dataset.pack=true", f"hardware.host_memory_gb={gb}", loss=1.0) for gb in ("null", "64")]
    changed = a_run(tmp_path, "dataset.pack=false", "hardware.host_memory_gb=64", loss=1.0)
    for command in (["diff", runs[0].name, changed.name], ["compare", runs[0].name, runs[1].name, changed.name]):
        assert main([*command, "--in", str(tmp_path / "runs")]) == 0
        words = capsys.readouterr().out.split()
        assert {"null", "true", "false"} <= set(words)
        assert not {"None", "True", "False"} & set(words)


@pytest.mark.parametrize(
    ("width", "runs", "first", "left_out"),
    [
        (200, 2, ["run", "train.lora.rank"], False),
        (90, 2, ["RUN", "RUN"], False),  # turned
        (80, 9, ["run", "train.lora.rank"], True),
    ],
)
def test_a_comparison_fits_the_terminal(
    tmp_path: Path, width: int, runs: int, first: list[str], left_out: bool
) -> None:
    several = [trained_run(tmp_path, f"train.lora.rank={number}") for number in range(1, runs + 1)]
    shown = io.StringIO()
    records.compare(several, Console(file=shown, width=width))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(run.name in line for line in lines) for run in several)
    names = {run.name: "RUN" for run in several}
    headings = next(line.split() for line in lines if line.strip())
    assert [names.get(word, word) for word in headings[:2]] == first
    assert ("not shown: " in shown.getvalue()) == left_out
    assert "execution accuracy" in shown.getvalue()


def test_the_list_of_runs_gives_each_a_line_of_a_terminal_and_a_file_all_overrides(tmp_path: Path) -> None:
    run = a_run(tmp_path, "train.learning_rate=0.001", "train.warmup_ratio=0.25", "train.weight_decay=0.125")
    for is_terminal in (True, False):
        shown = io.StringIO()
        records.runs([run], Console(file=shown, width=80, force_terminal=is_terminal, no_color=True))
        (first, *others) = [line for line in shown.getvalue().splitlines() if "=" in line or "…" in line]
        assert run.name in first
        assert (not others and "…" in first) == is_terminal
        assert ("0.125" in shown.getvalue()) != is_terminal


def test_a_recipe_does_not_differ_from_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "quickstart", "quickstart"]) == 0
    assert capsys.readouterr().out == "No differences.\n"


def test_the_report_is_written_beside_its_run_or_where_the_user_says(tmp_path: Path, capsys) -> None:
    run = trained_run(tmp_path)
    assert main(["report", str(run.folder)]) == 0
    assert capsys.readouterr().out == f"{run.folder / 'report.html'}\n"
    assert main(["report", str(run.folder), "--output", str(tmp_path / "mine.html")]) == 0
    assert run.name in (tmp_path / "mine.html").read_text()


def test_programs_get_the_same_runs_as_json(tmp_path: Path, capsys) -> None:
    worse, better = (a_run(tmp_path, f"train.seed={n}", key=f"train-{n}", loss=1 / n) for n in (1, 3))
    unknown = a_run(tmp_path, "train.seed=9", key="train-9", loss=float("nan"))
    folder = ["--json", "--in", str(tmp_path / "runs")]

    def output_of(*command: str):
        assert main([*command, *folder]) == 0
        return json.loads(capsys.readouterr().out)

    assert [run["run"] for run in output_of("runs")] == [worse.name, better.name, unknown.name]
    assert output_of("show", better.name)["metrics"] == {"train.loss": 1 / 3}
    assert output_of("show", unknown.name)["metrics"] == {"train.loss": None}
    compared = output_of("compare", worse.name, better.name)
    assert [(run["run"], run["keys"]["train.seed"]) for run in compared] == [(better.name, 3), (worse.name, 1)]
    status = output_of("status", better.name)
    assert (status[0]["state"], status[0]["stage"]) == ("finished", "train")
    assert output_of("status") == []
