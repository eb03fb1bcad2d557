"""The volume of a Kubernetes run, reached through a pod: the run's own while it works, else a small one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from runner.errors import RecipeError
from runner.targets.bundle import code_name
from runner.targets.kubernetes import manifests, pods
from runner.targets.kubernetes.cluster import Cluster, ClusterLost, Missing, Object
from runner.targets.kubernetes.manifests import ACCESS, RUN, SERVER, Load
from runner.targets.transport.base import CommandFailed

_LOOK_EVERY = 0.5  # seconds
_START = 600.0  # seconds that the pod may take to start, a new node included
_LIFE = 4 * 3600  # seconds after which it ends by itself, should nobody end it


@dataclass(frozen=True)
class Access:
    """A running container that has the volume."""

    cluster: Cluster
    pod: str
    container: str
    python: str

    def call(self, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None = None) -> bytes:
        """What a command prints; `feed` writes its standard input. Raises RecipeError."""
        try:
            return self.cluster.call(self.pod, self.container, command, feed)
        except CommandFailed as error:
            raise RecipeError(f"target.kubernetes: {error}") from error

    def lines(self, command: Sequence[str]) -> Iterator[bytes]:
        """What a command prints, line by line as it comes. Raises RecipeError."""
        try:
            yield from self.cluster.lines(self.pod, self.container, command)
        except CommandFailed as error:
            raise RecipeError(f"target.kubernetes: {error}") from error

    def host(self, load: Load, verb: str, *flags: str) -> list[str]:
        """A verb of `runner.execute.agent` for a run, in the folder that plans run in."""
        code = next((word for step in load.plan["steps"] for word in step["argv"] if word.startswith("code/")), None)
        path = "/".join(code.split("/")[:2]) if code else code_name()  # of the run, which may be another version's
        python = ["env", f"PYTHONPATH={path}", self.python, "-m", "runner.execute.agent"]
        return inside(load, *python, verb, load.folder, *flags)


def inside(load: Load, *command: str) -> list[str]:
    """A command in the folder that plans run in."""
    return ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", load.root, *command]


def call(cluster: Cluster, load: Load, command: Callable[[Access], list[str]]) -> bytes:
    """What a command prints beside the volume; begun again where the container of the run ended under it."""
    while True:
        with beside(cluster, load) as there:
            try:
                return there.call(command(there))
            except (RecipeError, ClusterLost, Missing):
                if there.container == ACCESS:
                    raise
        time.sleep(_LOOK_EVERY)


@contextmanager
def beside(cluster: Cluster, load: Load) -> Iterator[Access]:
    """A container with the volume: one of the run that works now, else that of a pod made for it."""
    for component in (RUN, SERVER):
        for pod in pods_of(cluster, load.run, component):
            if pods.running(pod, component):
                yield Access(cluster, pod["metadata"]["name"], component, load.python)
                return
    with access_pod(cluster, load) as name:
        yield Access(cluster, name, ACCESS, "python3")


@contextmanager
def access_pod(cluster: Cluster, load: Load) -> Iterator[str]:
    """Start a pod beside the volume and remove it afterwards; yields its name. Raises RecipeError."""
    name = f"{load.run}-{secrets.token_hex(3)}"
    cluster.create(manifests.access_pod(load.settings, load.run, name, _LIFE))
    try:
        _wait(cluster, name)
        yield name
    finally:
        with suppress(Missing):
            cluster.ask("core.delete_namespaced_pod", name, cluster.namespace, grace_period_seconds=0)


def pods_of(cluster: Cluster, run: str, component: str | None = None) -> list[Object]:
    """The pods of a run."""
    found = {"label_selector": manifests.selector(run, component)}
    return cluster.ask("core.list_namespaced_pod", cluster.namespace, **found)["items"]


def _wait(cluster: Cluster, name: str) -> None:
    """Until the pod runs; what keeps it from that is said when it has had its time."""
    until = time.monotonic() + _START
    while True:
        pod = cluster.ask("core.read_namespaced_pod", name, cluster.namespace)
        if pods.running(pod, ACCESS):
            return
        if time.monotonic() > until or pod["status"]["phase"] in ("Failed", "Succeeded"):
            reason = "; ".join(pods.why_not(pod)) or pod["status"]["phase"]
            raise RecipeError(f"target.kubernetes: the pod that brings files does not start: {reason}")
        time.sleep(_LOOK_EVERY)
