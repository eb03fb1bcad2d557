"""`runner run` as a user types it, of a recipe whose artifacts are all in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import targets
from runner.cli import main
from runner.compose.recipe import compose
from runner.record import runs


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    overrides = [f"paths.store={tmp_path}/store", f"paths.runs={tmp_path}/runs", "evaluate=none", "serve=none"]
    recipe = compose("quickstart", overrides).recipe
    for step in targets.of(recipe.target).plan(recipe).steps:
        (tmp_path / "store" / "objects" / step.key).mkdir(parents=True)
        (tmp_path / "store" / "objects" / step.key / "made").touch()
    return overrides


def test_a_run_of_cached_steps_is_recorded_and_summarized(tmp_path: Path, overrides: list[str], capsys) -> None:
    assert main(["run", "quickstart", *overrides]) == 0
    [run] = runs.every(tmp_path / "runs")
    assert {event["state"] for event in run.stages().values()} == {"cached"}
    assert f"run      {run.folder}\n" in capsys.readouterr().out


def test_a_detached_run_continues_in_the_background(tmp_path: Path, overrides: list[str], capsys) -> None:
    assert main(["run", "quickstart", overrides[0], "--detach", *overrides[1:]]) == 0
    [run] = runs.every(tmp_path / "runs")
    assert f"{run.name} continues in the background" in capsys.readouterr().out
    assert main(["attach", str(run.folder)]) == 0
    assert run.state == "finished"


def test_hydras_flags_are_passed_to_hydra(overrides: list[str], capfd, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["runner"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["run", "quickstart", "--cfg", "job", *overrides]) == 0
    assert f"store: {tmp_path}/store" in capfd.readouterr().out
    assert not (tmp_path / "runs").exists()
