"""The trials of a sweep: each found finished, found at work, or run in its own folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands.lifecycle import follow, start
from runner.commands.progress import Follower
from runner.commands.sweep.leaderboard import values_of
from runner.compose.recipe import Composed, from_hydra, prepare_hydra
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.process import die_with_parent
from runner.execute.run_folder import LOCK
from runner.plan.model import Plan
from runner.record import create
from runner.record.ranking import Objective
from runner.record.runs import Run

T = TypeVar("T")


class SweepStopped(BaseException):
    """A trial failed and the sweep shall end. Not an Exception: Hydra would note that and go on."""


class _Failed(Exception):
    """A stage of the trial failed."""


class _Bar(Follower):
    """The bar of the stage at work without lines: a sweep says one when a trial starts and one when it ends."""

    def _say(self, text: str, style: str) -> None:
        pass


@dataclass(frozen=True)
class Trial:
    """One that is planned: `run` is its record, `is_done` and `is_at_work` say what is left to do."""

    number: int
    run: Run
    plan: Plan
    target: targets.Target
    is_done: bool
    is_at_work: bool


@dataclass(frozen=True)
class Job:
    """What Hydra's launchers call for each trial, in this process or in one of joblib's.

    `keys` is what varies, `first` the number of the first trial that this call of the sweep starts,
    `sweep_pid` the process of the sweep.
    """

    source: Path
    sweep: Path
    objective: Objective
    keys: Sequence[str]
    stop_on_failure: bool
    first: int
    sweep_pid: int

    def __call__(self, config: DictConfig) -> float | None:
        """Run the trial that Hydra has composed. Returns its objective; None if it failed."""
        if os.getpid() != self.sweep_pid:
            die_with_parent()
        try:
            trial = self.prepare(config)
            return trial and self._attempt(trial.number, lambda: self._run(trial))
        except KeyboardInterrupt:
            if os.getpid() != self.sweep_pid != os.getppid():
                os._exit(130)  # a process of joblib's would wait on for work from a sweep that is no more
            raise

    def prepare(self, config: DictConfig) -> Trial | None:
        """Plan and record the trial that Hydra has composed, or find it; None if it cannot be."""
        prepare_hydra()
        number = self.first + HydraConfig.get().job.num
        return self._attempt(number, lambda: self._prepare(number, config))

    def run_together(self, trials: Sequence[Trial | None]) -> list[float | None]:
        """Start them all at once where a scheduler has them wait for their turn. Returns their objectives."""
        begun = [trial for trial in trials if trial and not trial.is_done]
        _start_together([trial for trial in begun if not trial.is_at_work])
        try:
            return [trial and self._attempt(trial.number, lambda one=trial: self._end(one)) for trial in trials]
        except BaseException:
            for trial in begun:
                trial.target.cancel(trial.run)
            raise

    def _attempt(self, number: int, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except (RecipeError, _Failed) as error:
            self._say(number, f"failed: {error}", "red")
        if self.stop_on_failure:
            raise SweepStopped
        return None

    def _prepare(self, number: int, config: DictConfig) -> Trial:
        composed = from_hydra(config, HydraConfig.get(), self.source)
        self._say(number, varying(composed.overrides, self.keys), "bold")
        target = targets.of(composed.recipe.target)
        folder, plan = folder_of(self.sweep, number), target.plan(composed.recipe)
        wait(folder)
        done = is_done(folder, plan)
        at_work = not done and is_planned_so(folder, plan) and is_at_work(Run(folder))
        if not done and not at_work:
            self._record(number, composed, plan, folder)
        return Trial(number, Run(folder), plan, target, done, at_work)

    def _record(self, number: int, composed: Composed, plan: Plan, folder: Path) -> None:
        if folder.exists():
            if is_finished(folder):
                self._say(number, "recipe, data or a program changed since it was finished; it is done again", "yellow")
            shutil.rmtree(folder)
        create.create(composed, plan, folder)

    def _run(self, trial: Trial) -> float | None:
        if not trial.is_done and not trial.is_at_work:
            start(trial.run, trial.target, attached=True)
        try:
            return self._end(trial)
        except _Failed:
            raise
        except BaseException:
            trial.target.cancel(trial.run)
            raise

    def _end(self, trial: Trial) -> float | None:
        """Follow a trial that was started to its end."""
        how = "finished before"
        if not trial.is_done:
            self._follow(trial)
            how = f"finished in {trial.run.seconds():.1f} s"
        value = self.objective.of(trial.run)
        self._say(trial.number, f"{how}: {self.objective.text(value)}", "green")
        return value

    def _follow(self, trial: Trial) -> None:
        in_sight = os.getpid() == self.sweep_pid  # bars of several processes would overwrite each other
        follower = _Bar(trial.plan.steps, Console(quiet=not in_sight))
        follow(trial.run, trial.target, follower, Console())
        if follower.state != "finished":
            raise _Failed(f"{follower.failed_stage or 'run'}: {follower.reason}")

    def _say(self, number: int, text: str, style: str) -> None:
        Console().print(Text(f"trial {number}: {text}", style=style), soft_wrap=True)


def _start_together(trials: Sequence[Trial]) -> None:
    """All or none: of those that cannot be started no record is left. Raises RecipeError."""
    try:
        if trials:
            trials[0].target.start_all([trial.run for trial in trials])
    except RecipeError:
        for trial in trials:
            shutil.rmtree(trial.run.folder)
        raise


def varying(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """What a trial's overrides set `keys` to, for reading."""
    values = values_of(overrides)
    return " ".join(f"{key}={values[key]}" for key in keys)


def folder_of(sweep: Path, number: int) -> Path:
    """The run folder of a trial."""
    return sweep / f"{number:03d}"


def is_done(folder: Path, plan: Plan) -> bool:
    """Whether a trial is finished, and by the very steps of `plan`: options, programs and inputs."""
    return is_finished(folder) and is_planned_so(folder, plan)


def is_planned_so(folder: Path, plan: Plan) -> bool:
    """Whether a trial is recorded with the very steps of `plan`."""
    try:
        return [step["key"] for step in Run(folder).plan["steps"]] == [step.key for step in plan.steps]
    except (OSError, ValueError):
        return False


def is_at_work(run: Run) -> bool:
    """Whether a trial that outlived its sweep is still running, or has ended meanwhile, where it was started."""
    if run.state != "away":
        return False
    try:
        state = targets.of_run(run).state(run)
    except RecipeError:
        return False
    return state in ("running", "finished") or state.startswith("waiting")


def is_finished(folder: Path) -> bool:
    """Whether a trial is finished and all of its record is there: a kill or power loss may leave a part of it."""
    run = Run(folder)
    try:
        return run.state == "finished" and bool(run.plan and run.manifest and run.metrics())
    except (OSError, ValueError):
        return False


def wait(folder: Path) -> None:
    """Wait for the end of an executor that is stopping: it outlives a sweep that was killed by some seconds."""
    files.wait_until_unlocked(folder / LOCK)
