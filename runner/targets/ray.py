"""A Ray cluster, from a machine that sees its dashboard or over SSH to one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from runner.errors import RecipeError
from runner.execute.schedulers import ray
from runner.plan.model import Plan
from runner.record.runs import Run
from runner.targets.scheduled import ScheduledTarget, most_cores

_GIVES_UP = (
    "runner: Ray gives up on a job that has waited for 15 minutes, unless its head was started with a longer "
    "RAY_JOB_START_TIMEOUT_SECONDS; `runner attach` and `runner status` then submit the run again"
)


class RayTarget(ScheduledTarget):
    """A run is one Ray job, which holds its CPUs, NeuronCores and other resources from the first step to the last."""

    scheduler = ray.Scheduler()

    def start_all(self, runs: Sequence[Run]) -> None:
        super().start_all(runs)
        if any(self.state(run).startswith("waiting") for run in runs):
            print(_GIVES_UP, file=sys.stderr)

    def request(self, plan: Plan) -> dict[str, Any]:
        settings, cores = self._settings.ray, most_cores(plan.steps)
        resources = {**({"neuron_cores": cores} if cores else {}), **self._amounts()}
        return {"address": settings.address, "cpus": settings.cpus, "resources": resources}

    def _amounts(self) -> dict[str, float]:
        try:
            return {name: float(amount) for name, amount in self._settings.ray.resources.items()}
        except ValueError as error:
            raise RecipeError(f"target.ray.resources: {error}; give an amount of each, such as disk: 1") from None
