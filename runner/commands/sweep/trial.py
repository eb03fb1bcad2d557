"""The trials of a sweep. Each is already finished, already running, or run in its own folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from runner import targets
from runner.commands.lifecycle import follow, start, terminate_as_interrupt
from runner.commands.progress import Follower
from runner.commands.sweep.budget import Budget
from runner.commands.sweep.leaderboard import values_of
from runner.commands.sweep.pruning import Pruner, held_out_losses, pruner_of, watch
from runner.commands.sweep.remaining import seconds_left, seconds_of
from runner.commands.tables import say, terminal
from runner.compose.composed import Composed
from runner.compose.recipe import from_hydra, prepare_hydra
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.process import die_with_parent
from runner.execute.run_folder import LOCK
from runner.execute.schedulers.base import NO_ANSWER
from runner.metrics import duration
from runner.plan.model import Plan
from runner.record import create
from runner.record.contents import DamagedRecord
from runner.record.ranking import Objective
from runner.record.runs import Run, every, readable
from runner.startup import print_error

T = TypeVar("T")

_FOLLOWED_AT_ONCE = 8  # trials, over a connection each; sshd accepts 10 at a time
_HELD_OUT_LOSS = "train.eval_loss_end"


class SweepStopped(BaseException):
    """No more trials may start, for the given reason. Not an Exception: Hydra would catch that and continue."""


class OutOfBudget(SweepStopped):
    """The trials have reached a limit of the sweep."""


class _Failed(Exception):
    """A stage of the trial failed."""


class _Bar(Follower):
    """Shows only the progress bar of the current stage: a sweep prints a line when a trial starts and when it ends."""

    def _print(self, text: str, style: str) -> None:
        pass


@dataclass(frozen=True)
class Trial:
    """A planned trial: `run` is its record, `is_done` and `is_running` tell what is left to do."""

    number: int
    run: Run
    plan: Plan
    target: targets.Target
    pruner: Pruner | None
    is_done: bool
    is_running: bool


@dataclass(frozen=True)
class Job:
    """The function that Hydra's launchers call for each trial, in this process or in one of joblib.

    `keys` are the keys that vary and `size` is the number of trials, `first` is the number of the first trial of this
    execution of the sweep, and `sweep_pid` is its process.
    """

    source: Path
    sweep: Path
    objective: Objective
    keys: Sequence[str]
    size: int
    first: int
    sweep_pid: int
    stop_on_failure: bool
    budget: Budget
    quiet: bool

    def __call__(self, config: DictConfig) -> float | None:
        """Run the trial that Hydra has composed. Returns its objective; None if it failed."""
        if os.getpid() != self.sweep_pid:
            die_with_parent()
        try:
            with terminate_as_interrupt():
                trial = self.prepare(config)
                return trial and self._attempt(trial.number, lambda: self._run(trial))
        except KeyboardInterrupt:
            if os.getpid() != self.sweep_pid != os.getppid():
                os._exit(130)  # a process of joblib would keep waiting for work from a sweep that has ended
            raise

    def prepare(self, config: DictConfig) -> Trial | None:
        """Plan and record the trial that Hydra has composed, or find its record; None if that fails."""
        prepare_hydra()
        number = self.first + HydraConfig.get().job.num
        return self._attempt(number, lambda: self._prepare(number, config))

    def run_together(self, trials: Sequence[Trial | None]) -> list[float | None]:
        """Submit all trials to the target's queue and follow them. Returns their objectives; None for a failed one."""
        started = [trial for trial in trials if trial and not trial.is_done]
        waiting = [trial for trial in started if not trial.is_running]
        self._check_budget_before(waiting)
        _start_together(waiting)
        try:
            with ThreadPool(_FOLLOWED_AT_ONCE) as pool:
                values = dict(self._ended(pool, [trial for trial in trials if trial]))
        except BaseException:
            for trial in started:
                targets.of_run(trial.run).cancel(trial.run)  # the connection of `trial.target` may be in use
            raise
        return [trial and values[trial.number] for trial in trials]

    def _ended(self, pool: ThreadPool, trials: Sequence[Trial]) -> Iterator[tuple[int, float | None]]:
        """The numbers and objectives of trials as they end. Raises SweepStopped when the others must not go on."""
        left = {trial.number for trial in trials if not trial.is_done}
        for trial, outcome in pool.imap_unordered(self._outcome, trials):
            left.discard(trial.number)
            yield trial.number, self._attempt(trial.number, partial(_value_of, outcome))
            if left and not trial.is_done:
                self._check_budget()

    def _outcome(self, trial: Trial) -> tuple[Trial, float | Exception | None]:
        """Follow one of many trials to its end, in a thread. Returns its objective, or why it failed."""
        try:
            return trial, self._end(trial, with_bar=False)
        except (RecipeError, _Failed) as error:
            return trial, error

    def _attempt(self, number: int, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except (RecipeError, _Failed) as error:
            print_error(f"trial {number}: failed: {error}")
        if self.stop_on_failure:
            raise SweepStopped("stopped at the first failure")
        return None

    def _check_budget_before(self, waiting: Sequence[Trial]) -> None:
        """Raises OutOfBudget if nothing is left for the trials `waiting`, whose records are then removed."""
        try:
            if waiting:
                self._check_budget()
        except OutOfBudget:
            for trial in waiting:
                shutil.rmtree(trial.run.folder)
            raise

    def _check_budget(self) -> None:
        """Raises OutOfBudget if the trials so far have reached a limit."""
        if self.budget.is_limited:
            trials = readable(every(self.sweep), lambda trial: (trial.recipe, trial.plan))
            exhausted = self.budget.exhausted(trials)
            if exhausted:
                raise OutOfBudget(exhausted)

    def _prepare(self, number: int, config: DictConfig) -> Trial:
        composed = from_hydra(config, HydraConfig.get(), self.source)
        self._say(number, f"{varying(composed.overrides, self.keys)} [{number + 1}/{self.size}]", "bold")
        target = targets.of(composed.recipe.target)
        folder, plan = folder_of(self.sweep, number), target.plan(composed.recipe)
        pruner = pruner_of(composed.recipe)
        wait(folder)
        done = is_done(folder, plan) or (pruner is not None and is_pruned(folder, plan))
        running = not done and has_steps_of(folder, plan) and is_running(Run(folder))
        if not done and not running:
            self._record(number, composed, plan, folder)
        return Trial(number, Run(folder), plan, target, pruner, done, running)

    def _record(self, number: int, composed: Composed, plan: Plan, folder: Path) -> None:
        if folder.exists():
            if is_finished(folder):
                self._say(number, "recipe, data or a program changed since it finished; repeating it", "yellow")
            shutil.rmtree(folder)
        create.create(composed, plan, folder)

    def _run(self, trial: Trial) -> float | None:
        if not trial.is_done and not trial.is_running:
            self._check_budget_before([trial])
            start(trial.run, trial.target, attached=True)
        try:
            return self._end(trial, with_bar=os.getpid() == self.sweep_pid)
        except _Failed:
            raise
        except BaseException:
            trial.target.cancel(trial.run)
            raise

    def _end(self, trial: Trial, with_bar: bool) -> float | None:
        """Follow a started trial to its end and return its objective.

        At most one has a bar: bars of several threads or processes would overwrite each other.
        """
        if not trial.is_done:
            self._follow(trial, with_bar)
        when = "before" if trial.is_done else f"in {trial.run.seconds():.1f} s"
        if trial.run.state == "pruned":
            self._say(trial.number, f"pruned {when}: {trial.run.prune_reason}", "yellow")
            return self._value_of_pruned(trial.run)
        value = self.objective.of(trial.run)
        self._say(trial.number, f"finished {when}: {self.objective.text(value)}{self._time_left()}", "green")
        return value

    def _time_left(self) -> str:
        """What the trials that have not ended will take, if they are like the others."""
        trials = readable(every(self.sweep), lambda trial: (trial.state, trial.seconds()))
        ended, active = seconds_of(trials)
        left = seconds_left(ended, active or [0.0], self.size) if ended else 0.0
        return f"; about {duration(left)} left" if left else ""

    def _value_of_pruned(self, run: Run) -> float | None:
        """What a search learns from a pruned trial: the held-out loss so far, if that is what it optimizes."""
        losses = held_out_losses(run)
        return losses[max(losses)] if losses and self.objective.metric == _HELD_OUT_LOSS else None

    def _follow(self, trial: Trial, with_bar: bool) -> None:
        follower = _Bar(trial.plan.steps, Console(quiet=self.quiet or not with_bar))
        lines = trial.target.follow(trial.run)
        if trial.pruner:
            lines = watch(lines, trial.run, trial.pruner)
        follow(trial.run, trial.target, follower, Console(), lines)
        if follower.state != "finished" and trial.run.state != "pruned":
            raise _Failed(f"{follower.failed_stage or 'run'}: {follower.reason}")

    def _say(self, number: int, text: str, style: str) -> None:
        if not self.quiet:
            say(terminal(), f"trial {number}: {text}", style)


def _value_of(outcome: float | Exception | None) -> float | None:
    """The objective of a trial that ended; raises why it failed."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _start_together(trials: Sequence[Trial]) -> None:
    """Start all trials, or none: if that fails, their records are removed. Raises RecipeError."""
    try:
        if trials:
            trials[0].target.start_all([trial.run for trial in trials])
    except RecipeError:
        for trial in trials:
            shutil.rmtree(trial.run.folder)
        raise


def varying(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """The values of `keys` in a trial's overrides, as text."""
    values = values_of(overrides)
    return " ".join(f"{key}={values[key]}" for key in keys)


def folder_of(sweep: Path, number: int) -> Path:
    """The run folder of a trial."""
    return sweep / f"{number:03d}"


def is_done(folder: Path, plan: Plan) -> bool:
    """Whether a trial has finished with exactly the steps of `plan`: options, programs and inputs."""
    return is_finished(folder) and has_steps_of(folder, plan)


def is_pruned(folder: Path, plan: Plan) -> bool:
    """Whether the sweep has ended a trial with exactly the steps of `plan` early."""
    return has_steps_of(folder, plan) and Run(folder).state == "pruned"


def has_steps_of(folder: Path, plan: Plan) -> bool:
    """Whether a trial is recorded with exactly the steps of `plan`."""
    try:
        return [step["key"] for step in Run(folder).plan["steps"]] == [step.key for step in plan.steps]
    except (OSError, DamagedRecord):
        return False


def is_running(run: Run) -> bool:
    """Whether a remote trial that outlived its sweep is still running, or has finished meanwhile."""
    if run.state != "away":
        return False
    try:
        state = targets.of_run(run).state(run)
    except RecipeError:
        return False
    return state in ("running", "finished") or state.startswith(("waiting", NO_ANSWER))


def is_finished(folder: Path) -> bool:
    """Whether a trial has finished and its record is complete: a kill or power loss may leave it incomplete."""
    run = Run(folder)
    try:
        return run.state == "finished" and bool(run.plan and run.manifest and run.metrics())
    except (OSError, DamagedRecord):
        return False


def wait(folder: Path) -> None:
    """Wait for an executor that is stopping: it may outlive a killed sweep by some seconds."""
    files.wait_until_unlocked(folder / LOCK)
