"""A cluster whose scheduler starts the executor, submitted to from a machine over SSH or from this one."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.execute.schedulers.base import Scheduler
from runner.plan.model import Plan, Step
from runner.targets import bundle
from runner.targets.remote import RemoteTarget, transport_to

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ScheduledTarget(RemoteTarget):
    """Submits from `target.host`, or from this machine; all nodes share the file system of `target.folder`."""

    has_queue = True
    scheduler: ClassVar[Scheduler]

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, transport_to(settings.host))

    def problems(self, recipe: Recipe) -> Iterator[str]:
        yield from super().problems(recipe)
        serve = recipe.serve
        if serve.engine != "none" and serve.mode == "foreground" and serve.host in _LOOPBACK:
            yield (
                f"serve.host: {serve.host} can be reached only from the node that {self._settings.kind} chooses; "
                "say serve.host=0.0.0.0"
            )

    def server_address(self, host: str, port: int) -> tuple[str, int]:
        return super().server_address(host, port) if self._settings.host else (host, port)

    def _host_of_server(self, named: str) -> str:
        return named  # its node

    def assign(self, plan: Plan) -> Plan:
        code = bundle.code_name()
        common = {"scheduler": self._settings.kind, "python": self._settings.python, "code": code}
        return dataclasses.replace(super().assign(plan), job={**common, **self.request(plan)})

    def manifests(self, plan: Plan) -> str:
        return self.scheduler.submission(plan.as_json(), "runs/NAME")

    @abstractmethod
    def request(self, plan: Plan) -> dict[str, Any]:
        """What to ask the scheduler for, as its module in `runner.execute.schedulers` reads it. Raises RecipeError."""


def most_cores(steps: Sequence[Step]) -> int:
    """NeuronCores of the step that needs the most of them."""
    return max((step.cores["count"] for step in steps if step.cores), default=0)
