"""`runner sweep`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import runner
from evaluating import a_trial, with_losses
from records import a_run, a_sweep, ended

from runner.commands.sweep import status
from runner.errors import RecipeError


def test_the_best_so_far_the_failed_and_those_to_come_are_shown(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path, "sweep")
    a_run(tmp_path, "train.seed=1", trial="sweep/000", key="train-8", loss=0.5)
    a_run(tmp_path, "train.seed=2", trial="sweep/001", key="train-9", loss=0.25)
    failed = ended(tmp_path, "exit('no memory')").folder.rename(folder / "002")
    described = {**json.loads((folder / "sweep.json").read_text()), "keys": ["train.seed"], "trials": 5}
    (folder / "sweep.json").write_text(json.dumps(described))
    shown = runner(tmp_path, "sweep").stdout
    assert "trials   5: 2 finished, 1 failed, 2 not started" in shown
    assert "best     sweep/001: train.loss 0.25" in shown
    assert "002      failed: train: no memory" in shown
    assert f"sweep    {folder}" in shown and failed.exists()


def test_json_has_the_objective_and_the_trials_best_first(tmp_path: Path) -> None:
    folder = a_sweep(tmp_path, "sweep")
    for number, loss in enumerate([0.5, 0.25]):
        a_run(tmp_path, f"train.seed={number}", trial=f"sweep/00{number}", key=f"train-{number}", loss=loss)
    printed = json.loads(runner(tmp_path, "sweep", "--json").stdout)
    assert (printed["sweep"], printed["folder"], printed["objective"]) == ("sweep", str(folder), "train.loss")
    found = [(trial["run"], trial["state"], trial["objective"]) for trial in printed["trials"]]
    assert found == [("sweep/001", "finished", 0.25), ("sweep/000", "finished", 0.5)]


def test_a_trial_runs_again_in_its_place(tmp_path: Path) -> None:
    """Its recipe cannot work, which is said before its record is touched; one that works begins anew."""
    sweep = a_sweep(tmp_path, "sweep")
    run = with_losses(a_trial(tmp_path, "sweep/000", []), {5: 1.0})
    refused = runner(tmp_path, "sweep", "--rerun", "3")
    assert (refused.returncode, refused.stderr) == (2, "runner: --rerun: sweep has no trial 003; it has 000\n")
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("rank: 16", "rank: 0"))
    assert runner(tmp_path, "sweep", "--rerun", "0").returncode == 2
    assert (sweep / "000" / "events.jsonl").stat().st_size


def test_a_sweep_is_found_by_a_part_of_its_name_and_by_its_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RecipeError, match="no sweeps yet; runner run"):
        status.find_sweep("last", runs)
    first, second = a_sweep(tmp_path, "one-1a"), a_sweep(tmp_path, "two-1b")
    os.utime(first / "sweep.json", (1, 1))
    assert status.find_sweep("last", runs) == status.find_sweep("two", runs) == second
    assert status.find_sweep(str(first), runs) == status.find_sweep("one-1a", runs) == first
    with pytest.raises(RecipeError, match='"1" matches 2 sweeps: one-1a, two-1b'):
        status.find_sweep("1", runs)
