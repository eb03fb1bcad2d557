"""Where a plan runs: each module carries it to a machine, starts it, follows it and ends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.compose.validate import build
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.record.runs import Run


class Target(Protocol):
    """What a target's module defines under this name; it is made from the recipe's `target` section.

    `survives` says whether a run outlives the runner that started it.
    """

    survives: bool

    def place(self, recipe: Recipe) -> Place:
        """The paths that a plan has there. Nothing is connected to."""
        ...

    def ask(self, program: Path, flags: Sequence[str]) -> bytes:
        """What a program that needs the standard library alone prints there. Raises RecipeError."""
        ...

    def manifests(self, plan: Plan) -> str:
        """What a scheduler is handed to run a plan, as text that it takes as is; empty where there is none."""
        ...

    def start(self, run: Run, attached: bool) -> None:
        """Start a recorded run. One that is `attached` may end with this process. Raises RecipeError."""
        ...

    def start_all(self, runs: Sequence[Run]) -> None:
        """Start recorded runs that may wait for each other. Raises RecipeError."""
        ...

    def follow(self, run: Run) -> Iterator[bytes]:
        """The event stream from its beginning, line by line as it grows, until the run has ended."""
        ...

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        """The output of a stage, by default of the one at work, line by line; while it grows if `live`."""
        ...

    def detach(self) -> None:
        """Have an attached run live on alone."""
        ...

    def state(self, run: Run) -> str:
        """What a run is doing, asked where it runs: see `runner.execute.agent.state`."""
        ...

    def cancel(self, run: Run) -> str:
        """End a run; returns its state when nothing of it is left."""
        ...

    def fetch(self, run: Run, adapter: bool) -> None:
        """Bring figures, logs and samples of a run into its record, and the adapter by choice."""
        ...


def of(settings: Settings) -> Target:
    """The target that a recipe chooses."""
    return import_module(f"runner.targets.{settings.kind}").Target(settings)


def of_run(run: Run) -> Target:
    """The target on which a recorded run was started."""
    return of(build(Settings, run.recipe["target"]))
