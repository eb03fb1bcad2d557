"""The command of `target.on_end`: what it is told, and that it changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.execute import on_end
from runner.execute.executor import execute
from tests.runner.execute.small_plans import WRITE, events, start, step

TELL = 'printf "%s|" "$RUNNER_RUN" "$RUNNER_RECIPE" "$RUNNER_STATE" "$RUNNER_REASON" >>../told'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run; commands work in it."""
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(run)
    return run


def plan(run: Path, command: str | None, code: str = WRITE) -> dict:
    store = run.parent / "store"
    return {"recipe": "my recipe", "store": str(store), "on_end": command, "steps": [step(store, "train", code)]}


def warnings(run: Path) -> list[str]:
    return [event["message"] for event in events(run) if event["event"] == "log"]


def test_it_is_told_how_a_run_ended(run: Path) -> None:
    assert execute(plan(run, TELL), run) == 0
    assert execute(plan(run, TELL, "raise SystemExit('no \"such\" $(shape)')") | {"store": "other"}, run) == 1
    finished, failed = (run.parent / "told").read_text().split("run|")[1:]
    assert finished == "my recipe|finished||"
    assert failed.startswith('my recipe|failed|train: no "such" $(shape) (exit status 1')
    assert warnings(run) == []


def test_it_runs_when_a_run_is_stopped_but_not_when_it_will_be_resumed(run: Path) -> None:
    wait = "import signal; print('at work', flush=True); signal.pause()"
    for number, status in ((signal.SIGUSR1, 75), (signal.SIGTERM, 130)):
        log = run / "logs" / "train.log"
        log.unlink(missing_ok=True)
        process = start(run, plan(run, TELL, wait))
        while not log.exists() or not log.read_text():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait() == status
    assert (run.parent / "told").read_text() == "run|my recipe|stopped||"


def test_if_it_fails_that_is_one_warning_and_the_state_stays(run: Path) -> None:
    assert execute(plan(run, "echo no such host; exit 7"), run) == 0
    assert warnings(run) == [f"target.on_end: exit status 7; its output: {run}/logs/on_end.log"]
    assert (run / "logs" / "on_end.log").read_text() == "no such host\n"
    assert [event["state"] for event in events(run) if event["event"] == "run"] == ["started", "finished"]


def test_what_takes_too_long_is_killed_with_its_children(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_end, "_PATIENCE", 0.1)
    gone = run / "pipe"
    os.mkfifo(gone)
    command = f"trap '' TERM; sleep 600 >{gone} & wait"
    reader = os.open(gone, os.O_RDONLY | os.O_NONBLOCK)
    assert execute(plan(run, command), run) == 0
    assert warnings(run) == ["target.on_end: killed after 0.1 s"]
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b"", "nobody holds the pipe any more"
    os.close(reader)


def test_it_gets_no_tokens(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of-the-hub")
    monkeypatch.setenv("WANDB_API_KEY", "of-the-tracker")
    execute(plan(run, "env >../environment"), run)
    assert "of-the-" not in (run.parent / "environment").read_text()


def test_a_secret_in_it_is_refused_before_anything_is_recorded() -> None:
    recipe = compose("quickstart", ["target.on_end='curl https://me:hunter2@host'"]).recipe
    with pytest.raises(RecipeError, match="target.on_end: contains a password, a token or .* have it read a file"):
        targets.of(recipe.target).plan(recipe)


@pytest.mark.parametrize("target", ["local", "ssh", "slurm"])
def test_it_is_part_of_the_plan(target: str) -> None:
    words = [f"target={target}", "target.host=trn-a", "sdk.train_python=python3", "target.on_end='mail me'"]
    recipe = compose("quickstart", words).recipe
    assert targets.of(recipe.target).plan(recipe).on_end == "mail me"
