"""A run from its start to its end, with real executors and steps that only run a line of Python."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from runner import targets
from runner.commands import lifecycle, summary
from runner.compose.composed import Composed
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.model import Plan, Step
from runner.record.runs import Run
from runner.targets import Target

# Sends SIGTERM to its follower once that handles it, which is bit 14 of SigCgt, and then does not end by itself.
KILL_ITS_FOLLOWER = f"""
import os, signal, time
while not int(open("/proc/{os.getpid()}/status").read().split("SigCgt:")[1].split()[0], 16) >> 14 & 1:
    time.sleep(0.01)
os.kill({os.getpid()}, signal.SIGTERM)
signal.pause()
"""


def recipe(folder: Path, *overrides: str) -> Composed:
    return compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store", *overrides])


def begun(folder: Path, program: str, attached: bool = True) -> tuple[Run, Target]:
    """A run of one step, started."""
    composed = recipe(folder)
    step = Step("train", "train", "train-1", (sys.executable, "-c", program), {}, True, False)
    target = targets.of(composed.recipe.target)
    return lifecycle.begin(composed, Plan("quickstart", f"{folder}/store", (step,)), target, attached), target


@pytest.fixture
def watch() -> Callable[[Run, Target], tuple[int, str]]:
    def watch(run: Run, target: Target) -> tuple[int, str]:
        output = io.StringIO()
        status = lifecycle.watch(run, target, Console(file=output, width=160))
        return status, output.getvalue()

    return watch


@pytest.mark.parametrize("attached", [True, False])
def test_a_run_that_finished_is_summarized(tmp_path: Path, watch, attached: bool) -> None:
    run, target = begun(tmp_path, "pass", attached)
    status, output = watch(run, target)
    assert (status, run.state) == (0, "finished")
    assert f"run      {run.folder}" in output


@pytest.mark.parametrize(("program", "status"), [("exit('no & [good]')", 1), ("print('no & [good]'); exit(2)", 2)])
def test_a_run_that_failed_shows_its_reason_and_returns_its_status(
    tmp_path: Path, watch, capsys: pytest.CaptureFixture[str], program: str, status: int
) -> None:
    run, target = begun(tmp_path, program)
    got, output = watch(run, target)
    assert (got, run.state) == (status, "failed")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"runner: train: no & [good] (exit status {status}")
    assert said[1] == f"runner: see runner logs {summary.as_argument(run)} --stage train"
    assert f"run      {run.folder}" not in output


def test_sigterm_cancels_a_run_of_this_machine(tmp_path: Path, watch) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    run, target = begun(tmp_path, KILL_ITS_FOLLOWER)
    status, output = watch(run, target)
    assert status == 130
    assert "Run the same command to resume" in output
    assert run.state not in ("running", "finished")


def test_a_run_that_cannot_start_leaves_no_record(tmp_path: Path) -> None:
    composed = recipe(tmp_path, "target=ssh", "target.host=nobody@127.0.0.1:1", "target.folder=/tmp/none")
    with pytest.raises(RecipeError, match="127.0.0.1"):
        lifecycle.begin(composed, Plan("quickstart", "/tmp/none/store", ()), targets.of(composed.recipe.target))
    assert [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")] == []


def test_notes_of_a_recipe_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    composed = dataclasses.replace(recipe(tmp_path), notes=("a has no effect", "b has no effect"))
    lifecycle.say_notes(composed)
    assert capsys.readouterr().err == "note: a has no effect\nnote: b has no effect\n"


def test_sigterm_is_an_interrupt_only_within_the_context() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(lifecycle.Interrupted), lifecycle.terminate_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) is before
