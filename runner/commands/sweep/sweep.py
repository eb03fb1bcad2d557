"""A sweep: trials of one recipe that differ in some keys, in a folder that the same command finds again.

    runner run quickstart -m train.lora.rank=4,8 'train.seed=range(1,4)' 'serve=glob(*)'
    runner run quickstart -m 'train.lora={rank:4,alpha:8},{rank:8,alpha:16}'
    runner run quickstart -m train.seed=1,2,3,4 hydra/launcher=joblib hydra.launcher.n_jobs=2
    runner run quickstart -m hydra/sweeper=optuna hydra.sweeper.n_trials=20 'train.lora.rank=choice(4,8,16)' \
        'train.learning_rate=tag(log,interval(1e-4,1e-2))'

Hydra's sweepers choose the trials and its launchers start them. What they lack is here: every trial is
planned before the first one starts, an interrupted sweep goes on, failures are collected, trials ranked.

Keys that vary together are given as mappings, which Hydra merges into the section of that name. It is
Hydra's own grammar, so every sweeper and launcher takes it; what belongs together stands together, and
two lists of unequal length cannot be written.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands.lifecycle import say_notes, terminate_as_interrupt
from runner.commands.sweep import launcher, leaderboard, optuna_study
from runner.commands.sweep.trial import Job, SweepStopped, varying, wait
from runner.compose.overrides import hydra_overrides
from runner.compose.recipe import Composed, from_hydra, one_line, prepare_hydra
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.run_folder import LOCK, SWEEP
from runner.record import create, ranking, runs, trackers

# One line a trial is said by the trial itself.
_HYDRA = ("hydra.mode=MULTIRUN", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled")
# Overrides that say how a sweep is done, not what it is: with others of these it is still the same sweep.
_HOW = ("hydra/launcher=", "hydra.launcher.", "hydra.sweeper.n_trials=", "hydra.sweeper.n_jobs=", "sweep.stop_on_fail")


@dataclass(frozen=True)
class Sweep:
    """What a sweep will do: `keys` vary, `size` trials, in `folder`."""

    source: Path
    overrides: Sequence[str]
    config: DictConfig
    keys: Sequence[str]
    size: int
    folder: Path
    objective: ranking.Objective


def sweep(source: Path, words: Sequence[str], console: Console) -> int:
    """Do, or go on with, the sweep that the overrides `words` make of the recipe at `source`.

    Returns 0 if every trial is finished, 1 if one failed, 130 if it was stopped. Raises RecipeError before
    any work.
    """
    prepare_hydra()
    launcher.prepare()
    try:
        with initialize_config_dir(config_dir=str(source.parent), version_base="1.3"):
            one = _draft(source, hydra_overrides(words))
            with _alone(one.folder):
                return _do(one, console)
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError(f"{source}: {one_line(error)}{_missing_plugin(str(error))}") from error


def _missing_plugin(problem: str) -> str:
    return '; install joblib and optuna with `pip install ".[sweep]"`' if "Could not find 'hydra/" in problem else ""


def _draft(source: Path, words: Sequence[str]) -> Sweep:
    """Compose and plan every trial, or examples where their number has no end. Raises RecipeError."""
    hydra = GlobalHydra.instance().hydra
    assert hydra
    if any(word.startswith("hydra.sweeper.direction=") for word in words):
        raise RecipeError("command line: hydra.sweeper.direction: say sweep.direction=minimize or =maximize")
    overrides = [*_HYDRA, *words]
    config = hydra.compose_config(source.name, overrides, RunMode.MULTIRUN)
    asked = _asked(config)
    keys = [key for key, one in asked.items() if one.is_sweep_override()]
    trials = _grid(asked) if _is_grid(config) else _examples(asked)
    if not trials:
        raise RecipeError(f"command line: {' '.join(words)}: makes no trial: a glob or range is empty")
    composed = [
        _plan_trial(source, config, trial, f"trial {number} ({varying(trial, keys)})")
        for number, trial in enumerate(trials)
    ]
    say_notes(composed[0])
    recipes = [one.recipe for one in composed]
    overrides += launcher.chosen(recipes[0].target, words)
    size = len(trials) if _is_grid(config) else config.hydra.sweeper.n_trials
    objective = ranking.objective(recipes[0])
    create.prepare_folders(recipes[0], targets.of(recipes[0].target).local_store)
    folder = _folder(source, words, Path(recipes[0].paths.runs))
    return Sweep(source, overrides, config, keys, size, folder, objective)


def _asked(config: DictConfig) -> dict[str, Override]:
    """The overrides of a preset and of the command line by key; the last one of a key counts."""
    hydra = GlobalHydra.instance().hydra
    preset = (config.hydra.sweeper.get("params") or {}).items()
    words = [*(f"{key}={value}" for key, value in preset), *config.hydra.overrides.task]
    parser = OverridesParser.create(config_loader=hydra and hydra.config_loader)
    return {override.get_key_element(): override for override in parser.parse_overrides(words)}


def _is_optuna(config: DictConfig) -> bool:
    return config.hydra.sweeper._target_.endswith(".OptunaSweeper")


def _is_grid(config: DictConfig) -> bool:
    """Whether Hydra's own sweeper does it: every combination, in order. Others search."""
    return config.hydra.sweeper._target_.endswith(".BasicSweeper")


def _grid(overrides: Mapping[str, Override]) -> list[tuple[str, ...]]:
    """Every combination, in the order of Hydra's sweeper: the last key varies fastest."""
    for one in overrides.values():
        if one.is_interval_sweep():
            raise RecipeError(f"command line: {one.input_line}: an interval is searched by hydra/sweeper=optuna")
    return list(product(*(_values(key, one) for key, one in overrides.items())))


def _examples(overrides: Mapping[str, Override]) -> list[tuple[str, ...]]:
    """So many combinations that every choice, and both ends of every range, occur in one."""
    values = [_ends(key, one) or _values(key, one) for key, one in overrides.items()]
    return [tuple(one[n % len(one)] for one in values) for n in range(max(map(len, values), default=0))]


def _ends(key: str, override: Override) -> list[str]:
    value: Any = override.value()
    if override.is_interval_sweep():
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if override.is_range_sweep():
        return [f"{key}={value.start}", f"{key}={value.stop}"]  # Optuna takes both
    return []


def _values(key: str, override: Override) -> list[str]:
    if override.is_delete():
        return [str(override.input_line)]
    if override.is_sweep_override():
        return [f"{key}={text}" for text in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}"]


def _plan_trial(source: Path, config: DictConfig, overrides: Sequence[str], named: str) -> Composed:
    hydra = GlobalHydra.instance().hydra
    assert hydra
    try:
        one = hydra.config_loader.load_sweep_config(config, list(overrides))
        composed = from_hydra(one, one.hydra, source)
        targets.of(composed.recipe.target).plan(composed.recipe)
        trackers.of(composed.recipe.tracker)
    except (RecipeError, HydraException, OmegaConfBaseException) as error:
        problem = str(error) if isinstance(error, RecipeError) else one_line(error)
        raise RecipeError(f"{named}: {problem}") from error
    return composed


def _folder(source: Path, words: Sequence[str], records: Path) -> Path:
    """Named after recipe and overrides, unless hydra.sweep.dir says where."""
    given = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("hydra.sweep.dir=")]
    if given:
        return Path(given[-1]).absolute()
    what = [word for word in words if not word.startswith(_HOW)]
    digest = hashlib.sha256(json.dumps([str(source), *what]).encode()).hexdigest()
    return records.absolute() / "sweeps" / f"{create.file_name(source.stem)}-{digest[:8]}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the sweep's folder. Raises RecipeError if the same sweep is at work."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as lock:
        if not files.try_lock(lock):
            raise RecipeError(f"{folder}: this sweep is running already")
        yield


def _do(one: Sweep, console: Console) -> int:
    _write_about(one)
    console.print(Text(f"sweep of {one.size} trials in {one.folder}"), soft_wrap=True)
    try:
        with terminate_as_interrupt():
            _launch(one)
    except (KeyboardInterrupt, SweepStopped) as stop:
        _end_trials(one.folder)
        interrupted = isinstance(stop, KeyboardInterrupt)
        _show(one, console, "stopped" if interrupted else "stopped at the first failure")
        return 130 if interrupted else 1
    return 0 if _show(one, console, "") >= one.size else 1


def _write_about(one: Sweep) -> None:
    about = {
        "recipe": str(one.source),
        "command": sys.argv,
        "keys": list(one.keys),
        "objective": one.objective.metric,
        "direction": one.objective.direction,
        "trials": one.size,
    }
    (one.folder / SWEEP).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _launch(one: Sweep) -> None:
    hydra = GlobalHydra.instance().hydra
    assert hydra
    first, more = 0, [f"hydra.sweep.dir={optuna_study.quoted(str(one.folder))}"]
    if _is_optuna(one.config):
        first, settings = optuna_study.settings(one.config, one.folder, one.objective.direction)
        more += settings
    stop = one.config.sweep.stop_on_failure
    job = Job(one.source, one.folder, one.objective, tuple(one.keys), stop, first, os.getpid())
    try:
        hydra.multirun(one.source.name, job, [*one.overrides, *more])
    except ValueError:  # the Optuna sweeper's last words are the best trial, and there is none
        if any(trial.state == "finished" for trial in runs.every(one.folder)):
            raise


def _end_trials(folder: Path) -> None:
    """Wait until the executors of a stopped sweep have ended; a second Ctrl-C must not cut that short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for trial in runs.every(folder):
        wait(trial.folder)


def _show(one: Sweep, console: Console, stopped: str) -> int:
    """Print the trials so far and what to do next. Returns how many are finished."""
    trials = runs.every(one.folder)
    finished = sum(trial.state == "finished" for trial in trials)
    if trials:
        leaderboard.show(trials, one.objective, one.keys, console)
    if stopped:
        text = f"{stopped} with {finished} of {one.size} trials finished. Run the same command to resume."
        console.print(Text(text, style="yellow"), soft_wrap=True)
    console.print(Text(f"sweep    {one.folder}"), soft_wrap=True)
    return finished
