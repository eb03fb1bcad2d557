"""Where a plan runs: each module carries it to a machine or a cluster, starts it, follows it and ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from runner.compose.schema import Target as Settings
from runner.compose.validate import build
from runner.record.runs import Run
from runner.targets.base import Target

if TYPE_CHECKING:
    from runner.targets.remote import RemoteTarget

__all__ = ["TARGETS", "Target", "of", "of_run", "on_host"]


# Functions, so that a command imports the target that it needs and no client of another one.
def _local() -> type[Target]:
    from runner.targets.local import LocalTarget

    return LocalTarget


def _ssh() -> type[Target]:
    from runner.targets.ssh import SSHTarget

    return SSHTarget


def _slurm() -> type[Target]:
    from runner.targets.slurm import SlurmTarget

    return SlurmTarget


def _ray() -> type[Target]:
    from runner.targets.ray import RayTarget

    return RayTarget


def _kubernetes() -> type[Target]:
    from runner.targets.kubernetes.target import KubernetesTarget

    return KubernetesTarget


TARGETS: Mapping[str, Callable[[], type[Target]]] = {
    "local": _local,
    "ssh": _ssh,
    "slurm": _slurm,
    "ray": _ray,
    "kubernetes": _kubernetes,
}


def of(settings: Settings) -> Target:
    """The target that a recipe chooses. Raises RecipeError for a setting that is missing."""
    return TARGETS[settings.kind]()(settings)


def on_host(host: str) -> RemoteTarget:
    """A machine over SSH, given as HOST or HOST:FOLDER."""
    from runner.targets.ssh import SSHTarget

    name, _, folder = host.partition(":")
    settings = Settings(kind="ssh", host=name)
    return SSHTarget(dataclasses.replace(settings, folder=folder or settings.folder))


def of_run(run: Run) -> Target:
    """The target on which a recorded run was started."""
    return of(build(Settings, run.recipe["target"]))
