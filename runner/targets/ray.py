"""A Ray cluster, from a machine that sees its dashboard or over SSH to one."""

from __future__ import annotations

from runner.compose.schema import Target as Settings
from runner.execute.schedulers import ray
from runner.plan.model import Plan
from runner.targets.remote import Far, wire_to


class Target(Far):
    """Submits from `target.host`, or from this machine; `target.folder` is on a file system that all nodes share."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, wire_to(settings.host))

    def manifests(self, plan: Plan) -> str:
        return ray.Scheduler().submission(plan.as_json(), "runs/NAME")
