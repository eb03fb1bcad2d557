"""Which trials of a sweep have finished, and which are to be run again."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest
from evaluating import a_trial, with_losses
from records import a_run

from runner.commands.sweep import trial
from runner.commands.sweep.budget import Budget
from runner.execute import files
from runner.execute.run_folder import LOCK
from runner.plan.model import Plan, Step
from runner.record.ranking import Objective
from runner.record.runs import Run


def plan_of(run: Run) -> Plan:
    return Plan("quickstart", run.plan["store"], tuple(Step(**step) for step in run.plan["steps"]))


def test_a_trial_is_done_if_the_same_steps_finished(tmp_path: Path) -> None:
    run = a_run(tmp_path, loss=0.25)
    plan = plan_of(run)
    assert trial.is_done(run.folder, plan)
    edited = dataclasses.replace(plan, steps=(dataclasses.replace(plan.steps[0], key="train-2"),))
    assert not trial.is_done(run.folder, edited)
    assert not trial.is_done(tmp_path / "nothing", plan)
    (run.folder / "events.jsonl").unlink()  # killed while the record was begun
    assert not trial.is_finished(run.folder)


@pytest.mark.parametrize("file", ["plan.json", "events.jsonl", "results/train/training.json"])
def test_a_trial_whose_record_is_damaged_is_not_done(tmp_path: Path, file: str) -> None:
    run = a_run(tmp_path, loss=0.25)
    plan = plan_of(run)
    (run.folder / file).write_bytes(b"\0" * 40 + b"\n")  # as after a power loss
    assert not trial.is_done(run.folder, plan)


def test_a_finished_trial_of_this_machine_is_not_running(tmp_path: Path) -> None:
    assert not trial.is_running(a_run(tmp_path, loss=0.25))


def test_the_values_of_a_trial_are_shown_in_the_order_of_the_keys() -> None:
    overrides = ["train.lora.rank=4", "train.seed=2", "hardware=cpu"]
    assert trial.varying(overrides, ["train.seed", "train.lora.rank"]) == "train.seed=2 train.lora.rank=4"


def test_the_folder_of_a_trial_sorts_by_its_number() -> None:
    assert trial.folder_of(Path("sweep"), 7) == Path("sweep/007")


def test_a_trial_waits_for_an_executor_that_is_still_stopping(tmp_path: Path) -> None:
    waiter = threading.Thread(target=trial.wait, args=(tmp_path,), daemon=True)
    with (tmp_path / LOCK).open("wb") as lock:
        files.lock(lock)
        waiter.start()
        waiter.join(0.2)
        assert waiter.is_alive()
    waiter.join(30)
    assert not waiter.is_alive()


@pytest.mark.parametrize(("metric", "value"), [("train.eval_loss_end", 0.75), ("adapter.execution_accuracy", None)])
def test_a_search_learns_the_held_out_loss_of_a_pruned_trial(tmp_path: Path, metric: str, value: float | None) -> None:
    run = with_losses(a_trial(tmp_path, "sweep/000", []), {5: 1.0, 10: 0.75})
    job = trial.Job(
        tmp_path, tmp_path, Objective(metric, "minimize"), [], 1, 0, os.getpid(),
        stop_on_failure=False, budget=Budget(), quiet=False,
    )  # fmt: skip
    assert job._value_of_pruned(run) == value
