"""A tracker receives every training step once, in order; one that fails costs only a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.record import trackers
from runner.record.runs import Run
from tests.runner.trained_run import trained_run


class Notebook:
    """A tracker that keeps what it receives, and fails at the step `fails_at`."""

    failures = (ConnectionError,)

    def __init__(self, fails_at: int = 0):
        self.fails_at, self.received = fails_at, {}

    def start(self, run: Run) -> None:
        self.name = run.name

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise ConnectionError("the server went away\nwith details")
        self.received[step] = dict(values)

    def finish(self, run: Run, metrics: Mapping[str, float], notes: str) -> None:
        self.final, self.notes, self.state = dict(metrics), notes, run.state


def replay(run: Run, notebook: Notebook) -> tuple[list[bytes], list[str]]:
    """Feed the notebook with the whole stream of a run; what came through, and the warnings."""
    warnings: list[str] = []
    lines = (run.folder / "events.jsonl").read_bytes().splitlines()
    with trackers.feed(notebook, run, warnings.append) as feed:
        passed = list(feed.passing(lines))
    assert passed == lines
    return passed, warnings


def test_every_step_is_sent_and_then_the_final_metrics(tmp_path: Path) -> None:
    notebook = Notebook()
    run = trained_run(tmp_path)
    assert replay(run, notebook)[1] == []
    assert list(notebook.received) == list(range(1, 13))
    assert notebook.received[2]["train/loss"] == 0.5
    assert notebook.final["adapter/execution_accuracy"] == 0.75
    assert notebook.final["train/eval_loss_end"] == 0.4
    assert "train/loss" not in notebook.final  # a series already; one more point would bend it
    assert notebook.notes == f"record: {run.folder}"
    assert (notebook.name, notebook.state) == (run.name, "finished")


@pytest.mark.parametrize("steps", [range(1, 13), range(8, 13)])
def test_steps_of_earlier_runs_come_first(tmp_path: Path, steps: range) -> None:
    trained_run(tmp_path)
    if steps[0] > 1:
        (tmp_path / "store" / "objects" / "train-1").rename(tmp_path / "gone")
    notebook = Notebook()
    replay(trained_run(tmp_path, steps=steps), notebook)
    assert list(notebook.received) == list(range(1, 13))


def test_a_tracker_that_fails_is_dropped_and_the_stream_continues(tmp_path: Path) -> None:
    notebook = Notebook(fails_at=5)
    _, warnings = replay(trained_run(tmp_path), notebook)
    assert warnings == ["tracker dropped, the run continues: ConnectionError: the server went away"]
    assert list(notebook.received) == [1, 2, 3, 4]
    assert not hasattr(notebook, "final")


def test_a_tracker_that_is_not_installed_is_refused_with_the_packages_name(tmp_path: Path) -> None:
    """In a Python that finds nothing but the standard library and the runner's own needs."""
    for name in ("mlflow", "sqlalchemy", "alembic", "tensorboard", "wandb"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})")
    for kind, said in (("mlflow", "mlflow-skinny sqlalchemy alembic"), ("tensorboard",) * 2, ("wandb",) * 2):
        done = subprocess.run(
            [sys.executable, "-m", "runner", "run", "quickstart", f"tracker={kind}", f"paths.runs={tmp_path}/runs"],
            env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.endswith(f"run: pip install {said} (or choose tracker=none)\n")
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["tracker.kind=mlflow"], "tracker.uri: missing; choose the option tracker=mlflow"),
        (["tracker=mlflow", "tracker.uri='http://me:secret@mlflow:5000'"], "contains a password"),
        (["tracker=mlflow", "tracker.uri=runs/mlruns"], "MLflow no longer writes to folders"),
        (["tracker=mlflow", "tracker.uri='http://[mlflow'"], "tracker.uri: Invalid IPv6 URL"),
        (["tracker=tensorboard", "tracker.uri='http://mlflow:5000'"], "tensorboard writes to a folder"),
        (["tracker.kind=mlfow"], "did you mean mlflow"),
        (["tracker=wandb", "tracker.project='team/sql'"], "tracker.project: team/sql: W&B accepts"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as refused:
        trackers.of(compose("quickstart", overrides).recipe.tracker)
    assert "secret" not in str(refused.value)


def test_keys_become_names_that_a_tracker_accepts_and_stay_apart() -> None:
    keys = ["train/loss", "where.prompt (en)?", "where.prompt (en)!", "where.a/../b", "where.c/", "x" * 300, "질문",
            "/d"]  # fmt: skip
    names = trackers.accepted(keys, re.compile(r"[^/\w.\- :]"))
    assert list(names) == keys
    assert list(names.values()) == [
        "train/loss", "where.prompt _en__", "where.prompt _en___", "where.a_.._b", "where.c_", "x" * 240, "질문", "_d"
    ]  # fmt: skip


def test_no_tracker_is_no_tracker(tmp_path: Path) -> None:
    assert trackers.of(compose("quickstart").recipe.tracker) is None
    run = trained_run(tmp_path)
    with trackers.feed(None, run, pytest.fail) as feed:
        assert list(feed.passing([b'{"event": "run", "state": "started"}']))


def test_without_a_tracker_no_earlier_run_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained_run(tmp_path).folder / "manifest.json").write_text("damaged")  # said by whoever reads it
    cached = trained_run(tmp_path)
    with trackers.feed(None, cached, pytest.fail) as feed:
        list(feed.passing((cached.folder / "events.jsonl").read_bytes().splitlines()))
    assert capsys.readouterr().err == ""
