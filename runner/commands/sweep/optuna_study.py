"""The study of an Optuna sweep, kept in the sweep's folder so that the sweep can be resumed.

Hydra's sweeper always runs `n_trials` new trials, numbers them from 0 and forgets those that were interrupted. This
module computes how many are missing, and repeats the interrupted ones.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig


def settings(config: DictConfig, folder: Path, direction: str) -> tuple[int, list[str]]:
    """The number of trials that have ended, and the overrides with which Hydra's sweeper runs the rest.

    `config` is Hydra's composed config, `folder` that of the sweep.
    """
    sweeper = config.hydra.sweeper
    storage, name = sweeper.storage or f"sqlite:///{folder.absolute()}/study.db", sweeper.study_name or folder.name
    ended = _reopen(storage, name, direction)
    overrides = {
        "storage": storage,
        "study_name": name,
        "direction": direction,
        "n_trials": max(0, sweeper.n_trials - ended),
        "max_failure_rate": 1.0,  # a failed trial must not end the study; `sweep.stop_on_failure` may
    }
    seed = sweeper.sampler.get("seed")
    if seed is not None:
        overrides["sampler.seed"] = seed + ended  # the same seed would draw the same trials again
    return ended, [f"hydra.sweeper.{key}={quoted(value)}" for key, value in overrides.items()]


def _reopen(storage: str, name: str, direction: str) -> int:
    """Put interrupted trials back in the queue, with their number and parameters. Returns how many have ended."""
    import optuna  # takes a second

    optuna.logging.set_verbosity(logging.WARNING)
    rdb = optuna.storages.RDBStorage(storage)
    study = optuna.create_study(storage=rdb, study_name=name, direction=direction, load_if_exists=True)
    trials = study.get_trials(deepcopy=False)
    study_id = rdb.get_study_id_from_name(name)
    for trial in trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            trial_id = rdb.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            rdb.set_trial_state(trial_id, optuna.trial.TrialState.WAITING)
    return sum(trial.state.is_finished() for trial in trials)


def quoted(value: Any) -> str:
    """A value as it is written in an override."""
    if not isinstance(value, str):
        return str(value)
    escaped = value.replace("'", "\\'")
    return f"'{escaped}'"
