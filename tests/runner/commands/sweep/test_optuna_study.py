"""The study of an Optuna sweep, resumed."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from runner.commands.sweep import optuna_study


def config(n_trials: int, **more: object) -> DictConfig:
    sweeper = {"storage": None, "study_name": None, "n_trials": n_trials, "sampler": {"seed": 7}, **more}
    return OmegaConf.create({"hydra": {"sweeper": sweeper}})


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")


def test_a_study_resumes_with_the_trials_that_are_missing(tmp_path: Path) -> None:
    first, _ = optuna_study.settings(config(4), tmp_path, "minimize")
    assert first == 0
    study = study_in(tmp_path)
    ended, failed, interrupted = study.ask(), study.ask(), study.ask()
    study.tell(ended, 0.5)
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    rank = interrupted.suggest_int("rank", 1, 1000)
    first, overrides = optuna_study.settings(config(4), tmp_path, "minimize")
    assert first == 2
    assert {"hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=9"} <= set(overrides)
    resumed = study_in(tmp_path)
    again = resumed.ask()
    assert (again.number, again.suggest_int("rank", 1, 1000)) == (interrupted.number, rank)
    assert resumed.ask().number == 3


def test_a_study_and_storage_of_the_users_choice_are_kept(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/mine.db"
    _, overrides = optuna_study.settings(config(1, storage=storage, study_name="mine"), tmp_path / "sweep", "maximize")
    assert {f"hydra.sweeper.storage='{storage}'", "hydra.sweeper.study_name='mine'"} <= set(overrides)
    assert optuna.load_study(study_name="mine", storage=storage).direction == optuna.study.StudyDirection.MAXIMIZE


@pytest.mark.parametrize("value", ["a b", "it's", "a,b", "${name}", "{x}", 3, 1.5])
def test_hydra_reads_a_quoted_value_as_it_was(value: object) -> None:
    [override] = OverridesParser.create().parse_overrides([f"key={optuna_study.quoted(value)}"])
    assert override.value() == value
