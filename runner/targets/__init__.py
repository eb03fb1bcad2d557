"""Where a plan runs: each module carries it to a machine or a cluster, starts it, follows it and ends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from runner.compose.schema import Target as Settings
from runner.record.runs import Run
from runner.targets.base import Target

if TYPE_CHECKING:
    from runner.targets.remote import RemoteTarget

__all__ = ["TARGETS", "Target", "class_of", "of", "of_run", "on_host"]


# target.kind: module and class. A command imports the target that it needs, and no client of another one.
TARGETS: Mapping[str, tuple[str, str]] = {
    "local": ("runner.targets.local", "LocalTarget"),
    "ssh": ("runner.targets.ssh", "SSHTarget"),
    "slurm": ("runner.targets.slurm", "SlurmTarget"),
    "ray": ("runner.targets.ray", "RayTarget"),
    "kubernetes": ("runner.targets.kubernetes.target", "KubernetesTarget"),
}


def class_of(kind: str) -> type[Target]:
    """The class of a target by its `target.kind`."""
    module, name = TARGETS[kind]
    return getattr(import_module(module), name)


def of(settings: Settings) -> Target:
    """The target that a recipe chooses. Raises RecipeError for a setting that is missing."""
    return class_of(settings.kind)(settings)


def on_host(host: str) -> RemoteTarget:
    """A machine over SSH, given as HOST or HOST:FOLDER."""
    from runner.targets.ssh import SSHTarget
    from runner.targets.transport.ssh import split_folder

    name, folder = split_folder(host)
    settings = Settings(kind="ssh", host=name)
    return SSHTarget(dataclasses.replace(settings, folder=folder or settings.folder))


def of_run(run: Run) -> Target:
    """The target on which a recorded run was started. Raises RecipeError where its record does not tell."""
    return of(run.typed_target())
