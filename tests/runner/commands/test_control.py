"""What a run says afterwards: its log, why it failed, and the exit status by which a script hears of that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from trained_run import trained_run

from runner.cli import main
from runner.compose.recipe import compose
from runner.execute.executor import execute
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run


def ended(folder: Path, program: str) -> Run:
    """A run of two stages, of which the second is the program."""
    composed, store = compose("quickstart", [f"paths.runs={folder}/runs"]), folder / "store"
    codes = {"fetch": "print('fetched')", "train": program}
    commands = {name: (sys.executable, "-c", code) for name, code in codes.items()}
    steps = (Step(name, name, f"{name}-1", argv, {}, True, False) for name, argv in commands.items())
    plan = Plan("quickstart", str(store), tuple(steps))
    made = create.create(composed, plan)
    execute(plan.as_json(), made)
    return Run(made)


@pytest.mark.parametrize(("program", "status"), [("exit(2)", 2), ("exit('no')", 1), ("exit(7)", 1), ("pass", 0)])
def test_the_status_of_a_stage_is_the_status_of_who_follows_it(tmp_path: Path, program: str, status: int) -> None:
    run = ended(tmp_path, program)
    among = ["--in", str(tmp_path / "runs")]
    assert main(["attach", run.name, *among]) == status
    assert main(["logs", "-f", run.name, *among]) == status
    assert main(["logs", "-f", run.name, "--stage", "fetch", *among]) == 0, "that stage did its work"
    assert main(["logs", run.name, *among]) == 0, "the log was printed"


def test_a_failed_run_says_where_and_why_and_shows_the_end_of_the_log(tmp_path: Path, capsys) -> None:
    run = ended(tmp_path, "print(*range(100), sep='\\n'); exit('no & good')")
    assert main(["show", run.name, "--in", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "failed   train: no & good (exit status 1" in said
    shown = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    assert shown[-10:] == [*map(str, range(91, 100)), "no & good"]


def test_an_empty_log_is_explained(tmp_path: Path, capfd) -> None:
    among = ["--in", str(tmp_path / "runs")]
    first = trained_run(tmp_path)
    again = trained_run(tmp_path)
    assert main(["logs", first.name, *among]) == 0
    assert capfd.readouterr().err == "runner: evaluate: no output\n"
    assert main(["logs", again.name, "--stage", "train", *among]) == 0
    assert "cached: the log is in the run" in capfd.readouterr().err
