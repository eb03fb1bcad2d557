"""Sweeps before and between trials: refused, named, ranked, found again. Real trials are in tests/integration."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from records import a_run
from rich.console import Console

from runner.commands.sweep import leaderboard, optuna_study, trial
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.model import Plan, Step
from runner.record import ranking
from runner.record.runs import Run


def runner(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.lora.rank=4,8,0"], "trial 2 (train.lora.rank=0): "),
        (["train.seed=1,2", "parallel.tp_size=1,3"], "trial 1 (train.seed=1 parallel.tp_size=3): "),
        (["train.lora={rank:4,alpha:8},{rnak:8,alpha:16}"], "did you mean train.lora.rank?"),
        (["train.seed=1,2", "evaluate=none", "sweep.objective=adapter.loss"], "sweep.objective"),
        (["train.learning_rate=interval(1e-4,1e-2)"], "hydra/sweeper=optuna"),
        (["hydra/sweeper=optuna", "train.lora.rank=choice(4,8,0)"], "(train.lora.rank=0): "),
        (["hydra/sweeper=optuna", "train.seed=choice(1,2)", "hydra.sweeper.direction=maximize"], "sweep.direction"),
        (["hydra/launcher=jobli", "train.seed=1,2"], "jobli"),
        (["model=glob(x*)"], "no trials"),
        (["train.seed=1,2", "--cfg", "job"], "--cfg job"),
    ],
)
def test_a_mistake_in_any_trial_is_found_before_the_first(tmp_path: Path, words: list[str], said: str) -> None:
    done = runner(tmp_path, "run", "quickstart", "-m", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("runner: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "metric", "direction"),
    [
        ([], "adapter.execution_accuracy", "maximize"),
        (["evaluate=text"], "adapter.exact_match", "maximize"),
        (["evaluate.metrics=[]"], "adapter.loss", "minimize"),
        (["evaluate=none"], "train.eval_loss_end", "minimize"),
        (["sweep.objective=train.loss", "sweep.direction=maximize"], "train.loss", "maximize"),
    ],
)
def test_the_objective_is_what_the_recipe_measures(overrides: list[str], metric: str, direction: str) -> None:
    chosen = ranking.objective(compose("quickstart", overrides).recipe)
    assert (chosen.metric, chosen.direction) == (metric, direction)


def test_an_objective_that_is_not_measured_is_refused() -> None:
    recipe = compose("quickstart", ["evaluate=none", "sweep.objective=adapter.rouge_l"]).recipe
    with pytest.raises(RecipeError, match=r"adapter\.rouge_l; choose from train\.eval_loss_end"):
        ranking.objective(recipe)


@pytest.mark.parametrize(("direction", "best"), [("minimize", "seed 1"), ("maximize", "seed 2")])
def test_the_table_has_the_best_first_and_what_has_no_figure_last(tmp_path: Path, direction: str, best: str) -> None:
    trials = [
        a_run(tmp_path, "train.seed=0", key="train-0", other=1.0),
        a_run(tmp_path, "train.seed=1", key="train-1", loss=0.25),
        a_run(tmp_path, "train.seed=2", key="train-2", loss=0.75),
    ]
    console = Console(file=io.StringIO(), width=200)
    leaderboard.show(trials, ranking.Objective("train.loss", direction), ["train.seed"], console)
    seeds = [line.split()[1] for line in console.file.getvalue().splitlines() if "finished" in line]  # type: ignore
    assert seeds == (["1", "2", "0"] if direction == "minimize" else ["2", "1", "0"])
    assert f"seed {seeds[0]}" == best


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
def test_a_trial_whose_record_was_lost_with_the_power_is_not_done(tmp_path: Path, file: str) -> None:
    run = a_run(tmp_path, loss=0.25)
    plan = plan_of(run)
    (run.folder / file).write_bytes(b"\0" * 40 + b"\n")
    assert not trial.is_done(run.folder, plan)


def study_config(n_trials: int, **more: object) -> object:
    sweeper = {"storage": None, "study_name": None, "n_trials": n_trials, "sampler": {"seed": 7}, **more}
    return OmegaConf.create({"hydra": {"sweeper": sweeper}})


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")


def test_a_study_goes_on_with_the_trials_that_are_missing(tmp_path: Path) -> None:
    first, _ = optuna_study.settings(study_config(4), tmp_path, "minimize")  # type: ignore[arg-type]
    assert first == 0
    made = study_in(tmp_path)
    ended, failed, interrupted = made.ask(), made.ask(), made.ask()
    made.tell(ended, 0.5)
    made.tell(failed, state=optuna.trial.TrialState.FAIL)
    rank = interrupted.suggest_int("rank", 1, 1000)
    first, overrides = optuna_study.settings(study_config(4), tmp_path, "minimize")  # type: ignore[arg-type]
    assert first == 2
    assert {"hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=9"} <= set(overrides)
    resumed = study_in(tmp_path)
    again = resumed.ask()
    assert (again.number, again.suggest_int("rank", 1, 1000)) == (interrupted.number, rank)
    assert resumed.ask().number == 3
