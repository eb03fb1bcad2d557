"""Runs on machines that share a remote store: each has a store of its own."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from runner.execute.executor import execute
from runner.execute.run_folder import last_state
from runner.paths import SCRIPTS
from tests.runner.execute.small_plans import WRITE, events, start, states, step

# Counts its checkpoints, and what it resumed from; goes on to the next one when the file `go` is there.
TRAIN = """
import json, os, pathlib, sys, time
output = pathlib.Path(sys.argv[1])
checkpoints = output / "checkpoints"
checkpoints.mkdir(exist_ok=True)
found = sorted(path.name for path in checkpoints.iterdir())
if found:
    (output / "training.json").write_text(json.dumps({"resumed": found}))
    sys.exit()
(checkpoints / "step_1").write_text("state")
with open(os.environ["RUNNER_EVENTS"], "a") as stream:
    print(json.dumps({"event": "checkpoint", "stage": "train", "at": 1}), file=stream)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


def plan(store: Path, remote: Path, *steps: tuple[str, str]) -> dict:
    """Of a machine whose store is `store`."""
    program = [sys.executable, str(SCRIPTS / "remote_store.py"), str(remote)]
    made = [step(store, stage, code, resumable=stage == "train") for stage, code in steps]
    return {"store": str(store), "steps": made, "remote_store": {"argv": program, "packages": {}}}


def warnings(run: Path) -> list[str]:
    return [event["message"] for event in events(run) if event["event"] == "log" and event["level"] == "warning"]


def test_another_machine_makes_nothing(tmp_path: Path, remote: Path) -> None:
    steps = [("convert", WRITE), ("export", WRITE)]
    assert execute(plan(tmp_path / "one", remote, *steps), tmp_path / "run-1") == 0
    assert execute(plan(tmp_path / "two", remote, *steps), tmp_path / "run-2") == 0
    assert [state for _, state in states(tmp_path / "run-2")] == ["begun", "cached"] * 2
    assert (tmp_path / "run-2" / "artifacts" / "export" / "made").read_text() == "x"


def test_what_was_made_before_is_pushed_too(tmp_path: Path, remote: Path) -> None:
    local = plan(tmp_path / "one", remote, ("convert", WRITE))
    assert execute({**local, "remote_store": None}, tmp_path / "run-1") == 0
    assert execute(local, tmp_path / "run-2") == 0
    assert execute(plan(tmp_path / "two", remote, ("convert", WRITE)), tmp_path / "run-3") == 0
    assert states(tmp_path / "run-3")[-1] == ("convert", "cached")


def test_what_a_failed_run_has_made_is_pushed(tmp_path: Path, remote: Path) -> None:
    failing = plan(tmp_path / "one", remote, ("train", WRITE), ("export", "raise SystemExit(1)"))
    assert execute(failing, tmp_path / "run-1") == 1
    assert execute(plan(tmp_path / "two", remote, ("train", WRITE)), tmp_path / "run-2") == 0
    assert states(tmp_path / "run-2")[-1] == ("train", "cached")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_resumes_on_another_machine(tmp_path: Path, remote: Path, number: int) -> None:
    run = start(tmp_path / "run-1", plan(tmp_path / "one", remote, ("train", TRAIN)))
    manifest = remote / "checkpoints" / "train-1" / "manifest.json"
    while not (manifest.is_file() and manifest.stat().st_size):
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(number)
    run.wait(60)
    assert execute(plan(tmp_path / "two", remote, ("train", TRAIN)), tmp_path / "run-2") == 0
    assert (tmp_path / "run-2" / "results" / "train" / "training.json").read_text() == '{"resumed": ["step_1"]}'
    assert not manifest.exists()  # the artifact has taken its place


def test_the_checkpoint_of_an_interruption_is_pushed(tmp_path: Path, remote: Path) -> None:
    interrupted = TRAIN.replace("while True:\n    time.sleep(0.05)", "sys.exit(75)").replace(
        'print(json.dumps({"event": "checkpoint", "stage": "train", "at": 1}), file=stream)',
        'print(json.dumps({"event": "checkpoint", "stage": "train", "at": 1}), file=stream)\n'
        '    print(json.dumps({"event": "interrupted", "stage": "train", "at": 1}), file=stream)',
    )
    assert execute(plan(tmp_path / "one", remote, ("train", interrupted)), tmp_path / "run-1") == 75
    assert (remote / "checkpoints" / "train-1" / "manifest.json").is_file()


def test_a_damaged_artifact_is_made_here_and_pushed_again(tmp_path: Path, remote: Path) -> None:
    assert execute(plan(tmp_path / "one", remote, ("convert", WRITE)), tmp_path / "run-1") == 0
    [content] = [path for path in (remote / "artifacts" / "convert-1").iterdir() if path.name != "manifest.json"]
    content.write_text("y")
    assert execute(plan(tmp_path / "two", remote, ("convert", WRITE)), tmp_path / "run-2") == 0
    assert states(tmp_path / "run-2")[-1] == ("convert", "finished")
    [warning] = warnings(tmp_path / "run-2")
    assert "the content of made has changed" in warning
    assert execute(plan(tmp_path / "three", remote, ("convert", WRITE)), tmp_path / "run-3") == 0
    assert states(tmp_path / "run-3")[-1] == ("convert", "cached")


def test_a_push_that_fails_is_a_warning(tmp_path: Path, remote: Path) -> None:
    blocking = f"import pathlib; pathlib.Path({str(remote)!r}, 'artifacts').touch(); {WRITE}"
    assert execute(plan(tmp_path / "one", remote, ("convert", blocking)), tmp_path / "run") == 0
    assert len(warnings(tmp_path / "run")) == 1
    assert last_state(tmp_path / "run") == "finished"


def test_a_remote_store_that_cannot_be_used_ends_the_run_before_its_first_step(tmp_path: Path, remote: Path) -> None:
    remote.touch()
    assert execute(plan(tmp_path / "one", remote, ("convert", WRITE)), tmp_path / "run") == 1
    assert states(tmp_path / "run") == [("remote store", "failed")]
