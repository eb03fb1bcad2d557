"""Reads and writes the volume of a Kubernetes run, through a running pod of the run or else through a small pod."""

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
from runner.targets.kubernetes.cluster import Cluster, ClusterLost, Missing, Object, Refused
from runner.targets.kubernetes.manifests import ACCESS, RUN, SERVER, JobSpec
from runner.targets.transport.base import CommandFailed

_POLL = 0.5  # seconds
_START = 600.0  # seconds for the pod to start, including a new node
_LIFE = 4 * 3600  # seconds after which the pod ends by itself, if it was not deleted


@dataclass(frozen=True)
class Access:
    """A running container in which the volume is mounted."""

    cluster: Cluster
    pod: str
    container: str
    python: str

    def call(self, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None = None) -> bytes:
        """Output of a command; `feed` writes its standard input. Raises RecipeError."""
        try:
            return self.cluster.call(self.pod, self.container, command, feed)
        except CommandFailed as error:
            raise RecipeError(f"target.kubernetes: {error}") from error

    def lines(self, command: Sequence[str]) -> Iterator[bytes]:
        """Output of a command, line by line as it comes. Raises RecipeError."""
        try:
            yield from self.cluster.lines(self.pod, self.container, command)
        except CommandFailed as error:
            raise RecipeError(f"target.kubernetes: {error}") from error

    def agent_command(self, job_spec: JobSpec, verb: str, *flags: str) -> list[str]:
        """The command line of `runner.execute.agent` for a run, in the folder that plans run in."""
        code = next((arg for step in job_spec.plan["steps"] for arg in step["argv"] if arg.startswith("code/")), None)
        path = "/".join(code.split("/")[:2]) if code else code_name()  # the run may use another version of the code
        return self.agent_of(path, job_spec, verb, job_spec.folder, *flags)

    def agent_of(self, code: str, job_spec: JobSpec, *args: str) -> list[str]:
        """The command line of a version of `runner.execute.agent`, in the folder that plans run in."""
        return inside(job_spec, "env", f"PYTHONPATH={code}", self.python, "-m", "runner.execute.agent", *args)


def inside(job_spec: JobSpec, *command: str) -> list[str]:
    """A command in the folder that plans run in."""
    return ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", job_spec.root, *command]


def call(
    cluster: Cluster, job_spec: JobSpec, command: Callable[[Access], list[str]], patience: float = _START
) -> bytes:
    """Output of a command in a container with the volume; repeated if a container of the run ends meanwhile.

    A pod that is created for it may take `patience` seconds to start.
    """
    while True:
        with container_with_volume(cluster, job_spec, patience) as container:
            try:
                return container.call(command(container))
            except (RecipeError, ClusterLost, Missing):
                if container.container == ACCESS:
                    raise
        time.sleep(_POLL)


@contextmanager
def container_with_volume(cluster: Cluster, job_spec: JobSpec, patience: float = _START) -> Iterator[Access]:
    """A container with the volume: a running one of the run, otherwise one in a pod that is created for it."""
    for component in (RUN, SERVER):
        for pod in pods_of(cluster, job_spec.run, component):
            if pods.running(pod, component):
                yield Access(cluster, pod["metadata"]["name"], component, job_spec.python)
                return
    with access_pod(cluster, job_spec, patience) as name:
        yield Access(cluster, name, ACCESS, "python3")


@contextmanager
def access_pod(
    cluster: Cluster, job_spec: JobSpec, patience: float = _START, image: str | None = None
) -> Iterator[str]:
    """Start a pod with the volume and delete it afterwards; yields its name. Raises RecipeError.

    If this process is killed meanwhile, the pod ends after some hours, and is deleted with the Job of the run or by the
    next command that needs such a pod.
    """
    _delete_ended(cluster)
    name = f"{job_spec.run}-{secrets.token_hex(3)}"
    pod = manifests.access_pod(job_spec, name, _LIFE, image)
    if job := job_of(cluster, job_spec.run):
        pod["metadata"]["ownerReferences"] = [manifests.owner(job)]
    cluster.create(pod)
    try:
        _wait(cluster, name, patience)
        yield name
    finally:
        with suppress(Missing):
            cluster.ask("core.delete_namespaced_pod", name, cluster.namespace, grace_period_seconds=0)


def _delete_ended(cluster: Cluster) -> None:
    with suppress(Refused, Missing):  # a user may lack the right
        for phase in ("Failed", "Succeeded"):
            cluster.ask(
                "core.delete_collection_namespaced_pod", cluster.namespace,
                label_selector=manifests.selector(None, ACCESS), field_selector=f"status.phase={phase}",
            )  # fmt: skip


def job_of(cluster: Cluster, run: str) -> Object | None:
    """The Job of a run; None if it does not exist any more."""
    try:
        return cluster.ask("batch.read_namespaced_job", run, cluster.namespace)
    except Missing:
        return None


def pods_of(cluster: Cluster, run: str, component: str | None = None) -> list[Object]:
    """The pods of a run."""
    selector = manifests.selector(run, component)
    return cluster.ask("core.list_namespaced_pod", cluster.namespace, label_selector=selector)["items"]


def _wait(cluster: Cluster, name: str, patience: float) -> None:
    """Wait until the pod runs. Raises RecipeError, with the reason, if it does not start in time."""
    until = time.monotonic() + patience
    while True:
        pod = cluster.ask("core.read_namespaced_pod", name, cluster.namespace)
        if pods.running(pod, ACCESS):
            return
        if time.monotonic() > until or pod["status"]["phase"] in ("Failed", "Succeeded"):
            reason = "; ".join(pods.pending_reasons(pod)) or pod["status"]["phase"]
            raise RecipeError(f"target.kubernetes: the pod that copies files does not start: {reason}")
        time.sleep(_POLL)
