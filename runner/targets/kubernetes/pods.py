"""What the API says of a pod (as plain values): whether a container has started or ended, and why it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runner.targets.kubernetes.cluster import Object

_USUAL = ("ContainerCreating", "PodInitializing")  # on the way to a start
_INDEX = "batch.kubernetes.io/job-completion-index"


def newest(pods: Sequence[Object], container: str | None = None) -> Object | None:
    """The pod created last of a run's first node; with `container` among those where that has started."""
    first = (pod for pod in pods if pod["metadata"].get("annotations", {}).get(_INDEX, "0") == "0")
    begun = (pod for pod in first if container is None or _begun(pod, container))
    return max(begun, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)


def started(pod: Object, container: str) -> str | None:
    """A name for this start of the container; None as long as it has not started."""
    found = _begun(pod, container)
    return f"{pod['metadata']['uid']}/{found['restartCount']}" if found else None


def running(pod: Object, container: str) -> bool:
    """Whether the container runs, so that a command may be run in it."""
    found = _begun(pod, container)
    return bool(found and "running" in found["state"]) and "deletionTimestamp" not in pod["metadata"]


def why_not(pod: Object) -> Iterator[str]:
    """What keeps a pod from starting, or ended it without a word."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield condition.get("message", condition.get("reason", "not scheduled"))
    for status in _statuses(pod):
        waiting, ended = status["state"].get("waiting", {}), status["state"].get("terminated", {})
        if waiting.get("reason", _USUAL[0]) not in _USUAL:
            yield f"{waiting['reason']}: {waiting.get('message', '')}"
        if ended.get("reason", "Completed") not in ("Completed", "Error"):
            yield f"container {status['name']}: {ended['reason']}"
    if pod["status"].get("reason"):
        yield f"{pod['status']['reason']}: {pod['status'].get('message', '')}"


def failed_first(pod: Object) -> str | None:
    """The init container that ended with an error."""
    for status in pod["status"].get("initContainerStatuses", []):
        if status["state"].get("terminated", {}).get("exitCode"):
            return status["name"]
    return None


def _begun(pod: Object, container: str) -> Object | None:
    named = (status for status in pod["status"].get("containerStatuses", []) if status["name"] == container)
    return next((status for status in named if {"running", "terminated"} & set(status["state"])), None)


def _statuses(pod: Object) -> list[dict[str, Any]]:
    return [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
