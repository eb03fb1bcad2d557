"""A Slurm cluster, from a login node or over SSH to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from runner.compose.schema import Target as Settings
from runner.errors import RecipeError, did_you_mean
from runner.execute.schedulers import slurm
from runner.plan.model import Plan, Step
from runner.targets.scheduled import ScheduledTarget, most_cores

_NODE_TIMEOUT = 30  # seconds to wait for a node to examine


class SlurmTarget(ScheduledTarget):
    """Neighbouring steps that need the same options of sbatch share a batch job."""

    many_nodes = True
    scheduler = slurm.Scheduler()

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        named = {"partition": settings.slurm.partition, "account": settings.slurm.account}
        options = [f"--{name}={value}" for name, value in named.items() if value]
        self.on_node = ["srun", "--quiet", "--ntasks=1", f"--immediate={_NODE_TIMEOUT}", *options]

    def settings_of_step(self, stage: str, with_vllm: bool) -> Settings:
        slurm = self._settings.slurm
        stages = {name: options for name, options in slurm.stages.items() if name == stage}
        return replace(self._settings, slurm=replace(slurm, stages=stages))

    def request(self, plan: Plan) -> dict[str, Any]:
        stages = [step.stage for step in plan.steps]
        for name in self._settings.slurm.stages:
            if name not in stages:
                raise RecipeError(f"target.slurm.stages: {name}: no step of this plan; {did_you_mean(name, stages)}")
        groups = ((options, list(steps)) for options, steps in groupby(plan.steps, self._own_options))
        parts = [
            {
                "steps": [step.stage for step in steps],
                "options": {**self._shared_options(steps), **options},
                "memory": self._memory(steps),
            }
            for options, steps in groups
        ]
        return {"parts": parts, "at_once": self._settings.slurm.at_once}

    def _own_options(self, step: Step) -> dict[str, str]:
        nodes = {"nodes": str(step.nodes)} if step.nodes > 1 else {}
        return {**nodes, **self._settings.slurm.stages.get(step.stage, {})}

    def _shared_options(self, steps: Sequence[Step]) -> Mapping[str, str]:
        """Options of sbatch for the steps of one batch job."""
        settings = self._settings.slurm
        named = {name: getattr(settings, name) for name in ("partition", "account", "time")}
        chosen = {name: value for name, value in named.items() if value}
        return {**chosen, **self._processes(steps), **self._cores(most_cores(steps)), **settings.options}

    def _processes(self, steps: Sequence[Step]) -> dict[str, str]:
        """A CPU for each process of a step; a whole node has them anyway."""
        processes = max(step.processes for step in steps)
        whole = most_cores(steps) and not self._settings.slurm.gres
        return {} if whole or processes == 1 else {"cpus-per-task": str(processes)}

    def _memory(self, steps: Sequence[Step]) -> str | None:
        """For --mem where Slurm allocates memory; with a whole node all of it, which Slurm calls 0."""
        if most_cores(steps) and not self._settings.slurm.gres:
            return "0"
        most = max((step.memory or 0 for step in steps), default=0)
        return f"{-(-most // 2**20)}M" if most else None

    def _cores(self, cores: int) -> dict[str, str]:
        """NeuronCores by the cluster's name for them; whole nodes where it has none."""
        gres = self._settings.slurm.gres
        if not cores:
            return {}
        return {"gres": f"{gres}:{cores}"} if gres else {"exclusive": "true"}
