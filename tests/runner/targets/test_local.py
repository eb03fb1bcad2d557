"""Runs on this machine."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.plan.model import HERE, Plan, Step
from runner.record import create
from runner.record.runs import Run
from runner.targets.local import LocalTarget


def recorded(folder: Path, program: str) -> Run:
    """A run of one step, which has not begun."""
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store"])
    step = Step("train", "train", "train-1", (sys.executable, "-c", program), {}, True, False)
    return Run(create.create(composed, Plan("quickstart", f"{folder}/store", (step,))))


def target_of(run: Run) -> LocalTarget:
    target = targets.of_run(run)
    assert isinstance(target, LocalTarget)
    return target


def test_paths_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = compose("quickstart", ["paths.store=mine"]).recipe
    target = targets.of(recipe.target)
    place = target.place(recipe)
    assert (place.store, place.python, target.where) == (tmp_path / "mine", sys.executable, HERE)
    assert place.inputs is None, "files are read in place"
    recipe.sdk.train_python = "/venv/bin/python"
    assert target.place(recipe).python == "/venv/bin/python"


@pytest.mark.parametrize("attached", [True, False])
def test_a_run_is_followed_to_its_end(tmp_path: Path, attached: bool) -> None:
    run = recorded(tmp_path, "print('hello')")
    target = target_of(run)
    target.start(run, attached)
    assert b'"finished"' in list(target.follow(run))[-1]
    assert (target.state(run), list(target.log(run, "train", live=False))) == ("finished", [b"hello"])


def test_an_attached_run_continues_once_it_is_detached(tmp_path: Path) -> None:
    """Without `detach`, the end of the pipe stops it."""
    go = tmp_path / "go"
    run = recorded(tmp_path, f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)")
    target = target_of(run)
    target.start(run, attached=True)
    target.detach()
    assert target.state(run) == "running"
    go.touch()
    assert b'"finished"' in list(target_of(run).follow(run))[-1]


def test_a_cancelled_run_has_ended_when_cancel_returns(tmp_path: Path) -> None:
    run = recorded(tmp_path, "import signal; signal.pause()")
    target = target_of(run)
    target.start_all([run])
    assert target.cancel(run) == target.state(run) == "stopped"
    assert not run.in_progress


def test_a_port_in_use_is_a_problem() -> None:
    target = targets.of(compose("quickstart").recipe.target)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert target.port_problem("127.0.0.1", taken.getsockname()[1]) == "Address already in use"
    assert target.port_problem("127.0.0.1", 0) is None
