"""A Slurm cluster, from a login node or over SSH to one."""

from __future__ import annotations

from runner.compose.schema import Target as Settings
from runner.execute.schedulers import slurm
from runner.plan.model import Plan
from runner.targets.remote import Far, wire_to

_PATIENCE = 30  # seconds to wait for a node that is looked at


class Target(Far):
    """Submits from `target.host`, or from this machine; `target.folder` is on the cluster's shared file system."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, wire_to(settings.host))
        named = {"partition": settings.slurm.partition, "account": settings.slurm.account}
        chosen = [f"--{name}={value}" for name, value in named.items() if value]
        self.on_node = ["srun", "--quiet", "--ntasks=1", f"--immediate={_PATIENCE}", *chosen]

    def manifests(self, plan: Plan) -> str:
        return slurm.Scheduler().submission(plan.as_json(), "runs/NAME")
