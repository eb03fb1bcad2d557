"""One trial of a sweep: found finished, or run in its own folder."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from runner import record, targets
from runner.compose import Composed, from_config, prepare_hydra
from runner.errors import RecipeError
from runner.execute import end_with_parent
from runner.follow import Follower
from runner.host import LOCK
from runner.plan import Plan, build
from runner.ranking import Objective, values_of
from runner.run import follow, place_of, start
from runner.runs import Run


class SweepStopped(BaseException):
    """A trial failed and the sweep shall end. Not an Exception: Hydra would note that and go on."""


class _Failed(Exception):
    """A stage of the trial failed."""


class _Bar(Follower):
    """The bar of the stage at work without lines: a sweep says one when a trial starts and one when it ends."""

    def _say(self, text: str, style: str) -> None:
        pass


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
        prepare_hydra()
        if os.getpid() != self.sweep_pid:
            end_with_parent()
        number = self.first + HydraConfig.get().job.num
        try:
            return self._run(number, compose_trial(config, HydraConfig.get(), self.source))
        except (RecipeError, _Failed) as error:
            self._say(number, f"failed: {error}", "red")
        except KeyboardInterrupt:
            if os.getpid() != self.sweep_pid != os.getppid():
                os._exit(130)  # a process of joblib's would wait on for work from a sweep that is no more
            raise
        if self.stop_on_failure:
            raise SweepStopped
        return None

    def _run(self, number: int, composed: Composed) -> float | None:
        self._say(number, varying(composed.overrides, self.keys), "bold")
        folder, plan = folder_of(self.sweep, number), build(composed.recipe, place_of(composed.recipe))
        wait(folder)
        how = "finished before"
        if not is_done(folder, plan):
            self._do(number, folder, composed, plan)
            how = f"finished in {Run(folder).seconds():.1f} s"
        value = self.objective.of(Run(folder))
        self._say(number, f"{how}: {self.objective.text(value)}", "green")
        return value

    def _do(self, number: int, folder: Path, composed: Composed, plan: Plan) -> None:
        if folder.exists():
            if is_finished(folder):
                self._say(number, "recipe, data or a program changed since it was finished; it is done again", "yellow")
            shutil.rmtree(folder)
        in_sight = os.getpid() == self.sweep_pid  # bars of several processes would overwrite each other
        follower, target = _Bar(plan.steps, Console(quiet=not in_sight)), targets.of(composed.recipe.target)
        one = Run(record.create(composed, plan, folder))
        start(one, target, attached=True)
        try:
            follow(one, target, follower, Console())
        except BaseException:
            target.cancel(one)
            raise
        if follower.state != "finished":
            raise _Failed(f"{follower.failed_stage or 'run'}: {follower.reason}")

    def _say(self, number: int, text: str, style: str) -> None:
        Console().print(Text(f"trial {number}: {text}", style=style), soft_wrap=True)


def compose_trial(config: DictConfig, hydra_config: Any, source: Path) -> Composed:
    """The validated recipe of one trial. `hydra_config` is the `hydra` node of its config. Raises RecipeError."""
    choices = {group: str(option) for group, option in hydra_config.runtime.choices.items()}
    return from_config(config, source, hydra_config.overrides.task, choices)


def varying(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """What a trial's overrides set `keys` to, for reading."""
    values = values_of(overrides)
    return " ".join(f"{key}={values[key]}" for key in keys)


def folder_of(sweep: Path, number: int) -> Path:
    """The run folder of a trial."""
    return sweep / f"{number:03d}"


def is_done(folder: Path, plan: Plan) -> bool:
    """Whether a trial is finished, and by the very steps of `plan`: options, programs and inputs."""
    return is_finished(folder) and [step["key"] for step in Run(folder).plan["steps"]] == [s.key for s in plan.steps]


def is_finished(folder: Path) -> bool:
    """Whether a trial is finished and all of its record is there: a kill or power loss may leave a part of it."""
    run = Run(folder)
    try:
        return run.state == "finished" and bool(run.plan and run.manifest and run.metrics())
    except (OSError, ValueError):
        return False


def wait(folder: Path) -> None:
    """Wait for the end of an executor that is stopping: it outlives a sweep that was killed by some seconds."""
    with suppress(FileNotFoundError), (folder / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
