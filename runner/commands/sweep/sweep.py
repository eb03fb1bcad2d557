"""A sweep: trials of one recipe that differ in some keys, in a folder that the same command finds again.

    runner run quickstart -m train.lora.rank=4,8 'train.seed=range(1,4)' 'serve=glob(*)'
    runner run quickstart -m 'train.lora={rank:4,alpha:8},{rank:8,alpha:16}'
    runner run quickstart -m train.seed=1,2,3,4 hydra/launcher=joblib hydra.launcher.n_jobs=2
    runner run quickstart -m hydra/sweeper=optuna hydra.sweeper.n_trials=20 'train.lora.rank=choice(4,8,16)' \
        'train.learning_rate=tag(log,interval(1e-4,1e-2))'

Hydra's sweepers choose the trials and its launchers start them. This module adds what they lack: every trial is
planned before the first one starts, an interrupted sweep is resumed, failures are collected, and trials are ranked.

Keys that vary together are given as mappings, which Hydra merges into the section of that name. This is Hydra's own
grammar, so every sweeper and launcher supports it, and two lists of different lengths cannot occur.
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
from runner.commands.sweep.budget import Budget, budget_of
from runner.commands.sweep.pruning import pruner_of
from runner.commands.sweep.trial import Job, OutOfBudget, SweepStopped, varying, wait
from runner.commands.tables import say, say_labelled
from runner.compose.composed import Composed
from runner.compose.overrides import hydra_overrides
from runner.compose.recipe import from_hydra, one_line, prepare_hydra
from runner.compose.url_secrets import without_secrets
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.run_folder import LOCK, SWEEP
from runner.plan.model import Plan, Step
from runner.record import create, ranking, runs, trackers

# Each trial prints a line itself.
_HYDRA = ("hydra.mode=MULTIRUN", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled")
# Overrides of how a sweep is executed: with other values, it is still the same sweep.
_EXECUTION = (
    "hydra/launcher=",
    "hydra.launcher.",
    "hydra.sweeper.n_trials=",
    "hydra.sweeper.n_jobs=",
    "sweep.stop_on_fail",
    "sweep.max_",
    "sweep.pruner=",
    "sweep.reduction_factor=",
    "sweep.min_resource=",
)


@dataclass(frozen=True)
class Sweep:
    """A planned sweep: `size` trials in `folder`, in which `keys` vary.

    `trials` are all of a grid, or examples if a search chooses them.
    """

    source: Path
    overrides: Sequence[str]
    config: DictConfig
    keys: Sequence[str]
    size: int
    trials: Sequence[tuple[Composed, Plan]]
    folder: Path
    objective: ranking.Objective
    budget: Budget


def sweep(source: Path, overrides: Sequence[str], console: Console, quiet: bool = False) -> int:
    """Run or resume the sweep of the recipe at `source` with `overrides`; show no progress if `quiet`.

    Returns 0 if every trial has finished or the budget is used up, 1 if one failed, 130 if it was stopped. Raises
    RecipeError before any work.
    """
    with planned(source, overrides) as plan:
        recipe = plan.trials[0][0].recipe
        create.prepare_folders(recipe, targets.of(recipe.target).local_store)
        with exclusive(plan.folder):
            return _run(plan, console, quiet)


@contextmanager
def planned(source: Path, overrides: Sequence[str]) -> Iterator[Sweep]:
    """A planned sweep of the recipe at `source`, which Hydra can run within this context. Raises RecipeError."""
    prepare_hydra()
    launcher.prepare()
    try:
        with initialize_config_dir(config_dir=str(source.parent), version_base="1.3"):
            yield _plan(source, hydra_overrides(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError(f"{source}: {one_line(error)}{_missing_plugin(str(error))}") from error


def _missing_plugin(problem: str) -> str:
    missing = "Could not find 'hydra/" in problem
    return '; install joblib and optuna with `pip install "trainium-recipes[sweep]"`' if missing else ""


def _plan(source: Path, args: Sequence[str]) -> Sweep:
    """Compose and plan every trial, or examples if a search chooses them. Raises RecipeError."""
    hydra = GlobalHydra.instance().hydra
    assert hydra
    if any(arg.startswith("hydra.sweeper.direction=") for arg in args):
        raise RecipeError("command line: hydra.sweeper.direction: set sweep.direction=minimize or =maximize instead")
    overrides = [*_HYDRA, *args]
    config = hydra.compose_config(source.name, overrides, RunMode.MULTIRUN)
    by_key = _overrides_by_key(config)
    keys = [key for key, override in by_key.items() if override.is_sweep_override()]
    trials = _grid(by_key) if _is_grid(config) else _examples(by_key)
    if not trials:
        raise RecipeError(f"command line: {' '.join(args)}: no trials: a glob or range is empty")
    planned = [
        _plan_trial(source, config, trial, f"trial {number} ({varying(trial, keys)})")
        for number, trial in enumerate(trials)
    ]
    say_notes(planned[0][0])
    recipes = [composed.recipe for composed, _ in planned]
    overrides += launcher.chosen(recipes[0].target, args)
    size = len(trials) if _is_grid(config) else config.hydra.sweeper.n_trials
    objective = ranking.objective(recipes[0])
    folder = _folder(source, args, Path(recipes[0].paths.runs))
    return Sweep(source, overrides, config, keys, size, planned, folder, objective, budget_of(recipes[0]))


def _overrides_by_key(config: DictConfig) -> dict[str, Override]:
    """The last override of each key, from the sweeper's preset and from the command line."""
    hydra = GlobalHydra.instance().hydra
    preset = (config.hydra.sweeper.get("params") or {}).items()
    args = [*(f"{key}={value}" for key, value in preset), *config.hydra.overrides.task]
    parser = OverridesParser.create(config_loader=hydra and hydra.config_loader)
    return {override.get_key_element(): override for override in parser.parse_overrides(args)}


def _is_optuna(config: DictConfig) -> bool:
    return config.hydra.sweeper._target_.endswith(".OptunaSweeper")


def _is_grid(config: DictConfig) -> bool:
    """Whether Hydra's basic sweeper runs every combination, in order. Other sweepers search."""
    return config.hydra.sweeper._target_.endswith(".BasicSweeper")


def _grid(overrides: Mapping[str, Override]) -> list[tuple[str, ...]]:
    """Every combination, in the order of Hydra's sweeper: the last key varies fastest."""
    for override in overrides.values():
        if override.is_interval_sweep():
            raise RecipeError(f"command line: {override.input_line}: an interval needs hydra/sweeper=optuna")
    return list(product(*(_values(key, override) for key, override in overrides.items())))


def _examples(overrides: Mapping[str, Override]) -> list[tuple[str, ...]]:
    """A set of combinations in which every choice, and both ends of every range, occur."""
    values = [_ends(key, override) or _values(key, override) for key, override in overrides.items()]
    return [tuple(choices[n % len(choices)] for choices in values) for n in range(max(map(len, values), default=0))]


def _ends(key: str, override: Override) -> list[str]:
    value: Any = override.value()
    if override.is_interval_sweep():
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if override.is_range_sweep():
        return [f"{key}={value.start}", f"{key}={value.stop}"]  # Optuna includes both
    return []


def _values(key: str, override: Override) -> list[str]:
    if override.is_delete():
        return [str(override.input_line)]
    if override.is_sweep_override():
        return [f"{key}={text}" for text in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}"]


def _plan_trial(source: Path, config: DictConfig, overrides: Sequence[str], label: str) -> tuple[Composed, Plan]:
    hydra = GlobalHydra.instance().hydra
    assert hydra
    try:
        trial = hydra.config_loader.load_sweep_config(config, list(overrides))
        composed = from_hydra(trial, trial.hydra, source)
        plan = targets.of(composed.recipe.target).plan(composed.recipe)
        trackers.of(composed.recipe.tracker)
        pruner_of(composed.recipe)
    except (RecipeError, HydraException, OmegaConfBaseException) as error:
        problem = str(error) if isinstance(error, RecipeError) else one_line(error)
        raise RecipeError(f"{label}: {problem}") from error
    return composed, plan


def _steps(plans: Sequence[Plan]) -> str:
    """How often each stage runs if nothing is in the store yet: trials share the steps with the same fingerprint."""
    stages = dict.fromkeys(step.stage for plan in plans for step in plan.steps)
    return ", ".join(f"{len(distinct(plans, stage))} x {stage}" for stage in stages)


def distinct(plans: Sequence[Plan], stage: str) -> dict[int, Step]:
    """The steps of a stage that have to be made, each with the number of its first plan: those alike are shared."""
    found: dict[str | int, tuple[int, Step]] = {}
    for number, plan in enumerate(plans):
        for step in (step for step in plan.steps if step.stage == stage):
            found.setdefault(step.key if step.cached else number, (number, step))
    return dict(found.values())


def _folder(source: Path, args: Sequence[str], records: Path) -> Path:
    """The folder that hydra.sweep.dir sets, or one named after the recipe and a digest of the overrides."""
    folders = [arg.partition("=")[2].strip("'\"") for arg in args if arg.startswith("hydra.sweep.dir=")]
    if folders:
        return Path(folders[-1]).absolute()
    identity = [arg for arg in args if not arg.startswith(_EXECUTION)]
    digest = hashlib.sha256(json.dumps([str(source), *identity]).encode()).hexdigest()
    return records.absolute() / "sweeps" / f"{create.file_name(source.stem)}-{digest[:8]}"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the sweep's folder. Raises RecipeError if the same sweep is running."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("wb") as lock:
        if not files.try_lock(lock):
            raise RecipeError(f"{folder}: this sweep is already running")
        yield


def _run(planned: Sweep, console: Console, quiet: bool) -> int:
    _write_description(planned)
    if not quiet:
        _announce(planned, console)
    try:
        with terminate_as_interrupt():
            _launch(planned, quiet)
    except KeyboardInterrupt:
        _end_trials(planned.folder)
        _show(planned, console, "stopped")
        return 130
    except SweepStopped as stop:
        _end_trials(planned.folder)
        _show(planned, console, str(stop))
        return 0 if isinstance(stop, OutOfBudget) and not _failed(planned) else 1
    return 0 if _show(planned, console, "") >= planned.size else 1


def _announce(planned: Sweep, console: Console) -> None:
    console.print(Text(f"sweep of {planned.size} trials in {planned.folder}"), soft_wrap=True)
    if _is_grid(planned.config):
        steps = _steps([plan for _, plan in planned.trials])
        say_labelled(console, "steps", f"{steps}; those in the store are not run again")


def _failed(planned: Sweep) -> bool:
    return any(trial.state == "failed" for trial in _readable_trials(planned))


def _write_description(planned: Sweep) -> None:
    description = {
        "recipe": str(planned.source),
        "command": [without_secrets(word) for word in sys.argv],
        "keys": list(planned.keys),
        "objective": planned.objective.metric,
        "direction": planned.objective.direction,
        "trials": planned.size,
    }
    files.write_atomic(planned.folder / SWEEP, json.dumps(description, indent=2) + "\n")


def _launch(planned: Sweep, quiet: bool) -> None:
    hydra = GlobalHydra.instance().hydra
    assert hydra
    first, more = 0, [f"hydra.sweep.dir={optuna_study.quoted(str(planned.folder))}"]
    if _is_optuna(planned.config):
        first, settings = optuna_study.settings(planned.config, planned.folder, planned.objective.direction)
        more += settings
    job = Job(
        planned.source, planned.folder, planned.objective, tuple(planned.keys), planned.size, first, os.getpid(),
        stop_on_failure=planned.config.sweep.stop_on_failure, budget=planned.budget, quiet=quiet,
    )  # fmt: skip
    try:
        hydra.multirun(planned.source.name, job, [*planned.overrides, *more])
    except ValueError:  # the Optuna sweeper ends by reporting the best trial, which fails if no trial finished
        if any(trial.state == "finished" for trial in _readable_trials(planned)):
            raise


def _end_trials(folder: Path) -> None:
    """Wait until the executors of a stopped sweep have ended; a second Ctrl-C must not cut that short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for trial in runs.recorded(folder):
        wait(trial.folder)


def _readable_trials(planned: Sweep) -> list[runs.Run]:
    return runs.readable(runs.every(planned.folder), lambda trial: (trial.state, trial.metrics()))


def _show(planned: Sweep, console: Console, stopped: str) -> int:
    """Print the trials so far and how to resume. Returns how many have finished."""
    trials = _readable_trials(planned)
    finished = sum(trial.state in ("finished", "pruned") for trial in trials)
    if trials:
        leaderboard.show(trials, planned.objective, planned.keys, console)
    if stopped:
        text = f"{stopped} with {finished} of {planned.size} trials finished. Run the same command to resume."
        say(console, text, "yellow")
    console.print(Text(f"sweep    {planned.folder}"), soft_wrap=True)
    return finished
