"""What every target can do. A target carries a plan to a machine or a cluster, starts it, follows it and ends it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.compose.url_secrets import command_has_secret
from runner.errors import RecipeError
from runner.plan import elsewhere, object_storage
from runner.plan.build import build
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.record.runs import Run
from runner.targets.finding import Finding


class Target(ABC):
    """A place that runs plans, made from the `target` section of a recipe. Making one connects to nothing."""

    survives: ClassVar[bool] = True
    """Whether a run outlives the runner that started it."""
    local_store: ClassVar[bool] = False
    """Whether artifacts lie on this machine."""
    has_queue: ClassVar[bool] = False
    """Whether runs wait for their turn in a queue of the target, so that a sweep may submit all of them at once."""
    many_nodes: ClassVar[bool] = False
    """Whether one run can use several machines."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def where(self) -> str:
        """What people call the machine or the cluster."""
        host, kind = self._settings.host, self._settings.kind
        return f"{kind} at {host}" if host else kind

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a recipe on this target. Raises RecipeError for a recipe that cannot work here, or at all."""
        return self.assign(self.build(recipe))

    def build(self, recipe: Recipe) -> Plan:
        """The plan without the scheduler's job. Raises RecipeError, as `plan` does."""
        self.check(recipe)
        located, place = self.locate(recipe)
        with elsewhere.as_written(place.preview):
            return build(located, place)

    def locate(self, recipe: Recipe) -> tuple[Recipe, Place]:
        """The recipe with paths that can be read on this machine, and the place of its plan. Raises RecipeError."""
        return object_storage.located(*self.locate_on_target(recipe))

    def locate_on_target(self, recipe: Recipe) -> tuple[Recipe, Place]:
        """The same for what lies on the target alone. Raises RecipeError."""
        return elsewhere.replaced(recipe, lambda path: path), self.place(recipe)

    def check(self, recipe: Recipe) -> None:
        """Raises RecipeError for a recipe that cannot work on this target."""
        for problem in self.problems(recipe):
            raise RecipeError(problem)

    def assign(self, plan: Plan) -> Plan:
        """A plan with all that depends on the target: its name, the scheduler's job, `on_end`. Raises RecipeError."""
        return dataclasses.replace(plan, where=self.where, on_end=self._settings.on_end)

    @abstractmethod
    def place(self, recipe: Recipe) -> Place:
        """The paths that a plan has on the target. Raises RecipeError for a setting that is missing."""

    def problems(self, recipe: Recipe) -> Iterator[str]:
        """Why a recipe cannot work on this target: a line each, with the key and what to try."""
        if recipe.parallel.nodes > 1 and not self.many_nodes:
            yield (
                f"parallel.nodes: a run on target={self._settings.kind} uses one machine, not {recipe.parallel.nodes}; "
                "try target=slurm"
            )
        if command_has_secret(self._settings.on_end or ""):
            yield (
                "target.on_end: contains a password, a token or the address of a webhook, which every record would "
                'show; have it read a file: "$(cat ~/.webhook)"'
            )

    def settings_of_step(self, stage: str, with_vllm: bool) -> Settings:
        """The settings of a later run of one more `stage` on the artifacts of a run, e.g. of serving it."""
        return self._settings

    def port_problem(self, host: str, port: int) -> str | None:
        """Why a server cannot listen on a port, if that is known before the run starts."""
        return None

    def server_address(self, host: str, port: int) -> tuple[str, int]:
        """Where a server that listens there is reached from here while somebody follows its run."""
        return host, port

    @abstractmethod
    def probe(self, program: Path, flags: Sequence[str]) -> bytes | None:
        """Output of a program that needs the standard library alone, run on the target's machine.

        None where no machine can be examined before a run starts. Raises RecipeError.
        """

    def findings(self, plan: Plan) -> list[Finding]:
        """What the target itself says of a plan, besides the probe of a machine. Raises RecipeError."""
        return []

    def manifests(self, plan: Plan) -> str:
        """What the scheduler is given to run a plan, as text. Raises RecipeError where there is no scheduler."""
        raise RecipeError(f"--manifests: target={self._settings.kind} has no scheduler; try target=slurm")

    @abstractmethod
    def start(self, run: Run, attached: bool) -> None:
        """Start a recorded run; an `attached` one may end with this process. Raises RecipeError."""

    @abstractmethod
    def start_all(self, runs: Sequence[Run]) -> None:
        """Start all of these recorded runs, or none. Raises RecipeError."""

    @abstractmethod
    def follow(self, run: Run) -> Iterator[bytes]:
        """The event stream from its beginning, line by line as it grows, until the run has ended."""

    @abstractmethod
    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        """Output of a stage (default: the one in progress) line by line. Raises RecipeError.

        If `live`, as it grows; without a stage, until the run ends.
        """

    @abstractmethod
    def detach(self) -> None:
        """Let an attached run continue alone, and close connections."""

    @abstractmethod
    def state(self, run: Run) -> str:
        """What a run is doing, as the target knows it: see `runner.execute.agent.state`. Raises RecipeError."""

    @abstractmethod
    def cancel(self, run: Run) -> str:
        """End a run; returns its state when nothing of it is left. Raises RecipeError."""

    @abstractmethod
    def fetch(self, run: Run, adapter: bool) -> None:
        """Copy metrics, logs and samples of a run into its record, and the adapter if asked. Raises RecipeError."""

    def gc(self, flags: Sequence[str], show: Callable[[str], None]) -> int:
        """Free or check the store there, and `show` each line that `gc` of `runner.execute.agent` prints.

        Returns 1 if it found damage, else 0. Raises RecipeError.
        """
        raise RecipeError("gc --of: a run on this machine; leave --of out, and name its store with --store")

    def shell(self, run: Run) -> int:
        """A shell beside the files of a run; returns its exit status. Raises RecipeError where ssh does that."""
        machine = self._settings.host or "this machine"
        raise RecipeError(f"shell: only for target=kubernetes; log in to {machine} instead")
