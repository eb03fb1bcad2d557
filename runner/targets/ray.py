"""A Ray cluster, from a machine that sees its dashboard or over SSH to one."""

from __future__ import annotations

from runner.plan import Plan
from runner.schedulers import ray
from runner.schema import Target as Settings
from runner.targets.far import Far, wire_to


class Target(Far):
    """Submits from `target.host`, or from this machine; `target.folder` is on a file system that all nodes share."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, wire_to(settings.host))

    def manifests(self, plan: Plan) -> str:
        return ray.text(plan.as_json(), "runs/NAME")
