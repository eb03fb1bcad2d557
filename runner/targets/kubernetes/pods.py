"""The state of a pod, from the API's plain values: whether a container has started or ended, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from runner.targets.kubernetes.cluster import Object

_USUAL = ("ContainerCreating", "PodInitializing")  # normal while a container starts
_FIRST = 5.0  # seconds in which a Job creates its first pod; it creates another one after a longer time
_INDEX = "batch.kubernetes.io/job-completion-index"


def newest(pods: Sequence[Object], container: str | None = None) -> Object | None:
    """The newest pod of a run's first node; with `container`, the newest one in which that has started."""
    first = (pod for pod in pods if pod["metadata"].get("annotations", {}).get(_INDEX, "0") == "0")
    started_pods = (pod for pod in first if container is None or _started_status(pod, container))
    return max(started_pods, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)


def started(pod: Object, container: str) -> str | None:
    """An id of this start of the container; None if it has not started."""
    status = _started_status(pod, container)
    return f"{pod['metadata']['uid']}/{status['restartCount']}" if status else None


def running(pod: Object, container: str) -> bool:
    """Whether the container is running, so that commands can run in it."""
    status = _started_status(pod, container)
    return bool(status and "running" in status["state"]) and "deletionTimestamp" not in pod["metadata"]


def pending_reasons(pod: Object) -> Iterator[str]:
    """Why a pod does not start, or why it ended without reporting."""
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            yield condition.get("message", condition.get("reason", "not scheduled"))
    for status in _statuses(pod):
        waiting, ended = status["state"].get("waiting", {}), status["state"].get("terminated", {})
        if waiting.get("reason", _USUAL[0]) not in _USUAL:
            yield f"{waiting['reason']}: {waiting.get('message', '')}"
        if ended.get("reason", "Completed") not in ("Completed", "Error"):
            yield f"container {status['name']}: {ended['reason']}"
    if "deletionTimestamp" in pod["metadata"]:  # for ever, if the node is lost and its object stays
        yield f"pod {pod['metadata']['name']} on node {pod['spec'].get('nodeName')} is ending"
    if pod["status"].get("reason"):
        yield f"{pod['status']['reason']}: {pod['status'].get('message', '')}"


def held_back(job: Object) -> Iterator[str]:
    """Why a Job has no pod, if it says so."""
    if job["spec"].get("suspend"):
        yield "the Job is suspended, as a queue does until it has room"


def is_first_and_waits(pod: Object, job: Object) -> bool:
    """Whether a pod is the first of its Job and nothing in it has started: nothing of the run has."""
    created, since = (_time(item["metadata"]["creationTimestamp"]) for item in (pod, job))
    return (created - since).total_seconds() < _FIRST and not any(
        {"running", "terminated"} & set(status["state"]) for status in _statuses(pod)
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def failed_init_container(pod: Object) -> str | None:
    """The name of the init container that failed; None if none did."""
    for status in pod["status"].get("initContainerStatuses", []):
        if status["state"].get("terminated", {}).get("exitCode"):
            return status["name"]
    return None


def _started_status(pod: Object, container: str) -> Object | None:
    named = (status for status in pod["status"].get("containerStatuses", []) if status["name"] == container)
    return next((status for status in named if {"running", "terminated"} & set(status["state"])), None)


def _statuses(pod: Object) -> list[dict[str, Any]]:
    return [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
