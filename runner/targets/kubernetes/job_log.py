"""Following a Kubernetes run: the logs of its pods, one after the other, as one event stream; and why none runs.

The executor prints every event with its offset in the stream, from the first on in every pod, so what is new is told
from what was heard, whatever was cut, killed or rotated away meanwhile.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress

from runner.errors import RecipeError
from runner.execute.run_folder import EVENTS
from runner.targets.kubernetes import pods
from runner.targets.kubernetes.access import call, inside, pods_of
from runner.targets.kubernetes.cluster import Cluster, Missing, Object, Refused
from runner.targets.kubernetes.forward import forwarding
from runner.targets.kubernetes.manifests import RUN, SERVER, Load
from runner.targets.mirror import Mirror, note

ENDS = ("finished", "failed", "stopped")
_LOOK_EVERY = 1.0  # seconds between two looks at a run of which nothing is heard
_EVENT = re.compile(rb"(\d+) (\{.*\})")


class JobLog:
    """What is heard of a run from now on; `mirror` holds what was heard so far.

    A server of the run is reached at `port` of this machine, by default its own, while its log is read.
    """

    def __init__(self, cluster: Cluster, load: Load, mirror: Mirror, port: int | None) -> None:
        self._cluster, self._load, self._mirror, self._port = cluster, load, mirror, port
        self._component = RUN
        self._read: set[str] = set()  # starts of a container whose log was read to its end
        self._said: set[str] = set()  # notes

    def lines(self) -> Iterator[bytes]:
        """Events until the run has ended, and notes. Raises ClusterLost; then it may be called again."""
        while True:
            job = job_of(self._cluster, self._load.run)  # asked before the pods, so that none of them is missed
            if job is None:
                yield from self._rest()
                yield from gone(self._mirror)
                return
            found = pods_of(self._cluster, self._load.run, self._component)
            pod = pods.newest(found, self._component)
            start = pods.started(pod, self._component) if pod else None
            if pod and start and start not in self._read:
                yield from self._pod(pod, start)
            elif self._may_serve(job):
                self._serve(1)
            elif self._ended(job):
                yield from self._why_ended(job, found)
                return
            else:
                if "deletionTimestamp" not in job["metadata"]:
                    yield from self._why_not(found)
                time.sleep(_LOOK_EVERY)

    def _pod(self, pod: Object, start: str) -> Iterator[bytes]:
        """The log of a container. One that runs is read again, as its stream may end before it does."""
        name, serves = pod["metadata"]["name"], self._component == SERVER
        there = self._load.port if serves else 0
        with forwarding(self._cluster, name, there, self._port or there) if serves else nullcontext():
            try:
                for line in self._cluster.log(name, self._component):
                    yield from self._new(line)
            except Missing:
                return  # deleted meanwhile
            except Refused as refused:  # the container is made anew, or one may not read its log
                yield from self._note(str(refused))
        if pods.running(pod, self._component):
            time.sleep(_LOOK_EVERY)
        else:
            self._read.add(start)

    def _new(self, line: bytes) -> Iterator[bytes]:
        event = _EVENT.fullmatch(line)
        if not event:
            yield from self._note(line.decode(errors="replace"))
            return
        offset = int(event[1])
        if offset > self._mirror.size:  # the log was rotated
            yield from self._between(offset)
        if offset == self._mirror.size:
            self._mirror.add(event[2])
            yield event[2]

    def _between(self, offset: int) -> Iterator[bytes]:
        """What the stream holds before `offset` and was not heard, from the volume."""
        yield from self._add(self._tail()[: offset - self._mirror.size])

    def _rest(self) -> Iterator[bytes]:
        """What the stream holds beyond what was heard, from the volume, once there is no Job any more."""
        if self._mirror.last_state not in ENDS:
            with suppress(RecipeError, Missing):  # the volume, too, may be gone
                tail = self._tail()
                yield from self._add(tail[: tail.rfind(b"\n") + 1])

    def _tail(self) -> bytes:
        command = inside(self._load, "tail", "-c", f"+{self._mirror.size + 1}", f"{self._load.folder}/{EVENTS}")
        return call(self._cluster, self._load, lambda there: command)

    def _add(self, lines: bytes) -> Iterator[bytes]:
        for line in lines.splitlines():
            self._mirror.add(line)
            yield line

    def _may_serve(self, job: Object) -> bool:
        done = self._component == RUN and condition(job, "Complete")
        return done and self._load.server is not None and self._mirror.last_state != "failed"

    def _serve(self, replicas: int) -> None:
        """Have the server run, or not."""
        size = {"spec": {"replicas": replicas}}
        space = self._cluster.namespace
        self._cluster.ask("apps.patch_namespaced_deployment_scale", self._load.run, space, size)
        self._component = SERVER

    def _ended(self, job: Object) -> bool:
        if self._component == RUN:
            return condition(job, "Complete") or condition(job, "Failed")
        failed = self._mirror.last_state == "failed"
        if failed:
            self._serve(0)  # rather than try for ever
        return failed

    def _why_not(self, found: list[Object]) -> Iterator[bytes]:
        """What keeps the run from going on: of the newest pod, or of the Job where it has none."""
        pod = pods.newest(found)
        if pod and pods.started(pod, self._component):
            return
        reasons, space = [*pods.why_not(pod)] if pod else [], self._cluster.namespace
        for name in (self._load.run, *([pod["metadata"]["name"]] if pod else [])):
            selected = f"type=Warning,involvedObject.name={name}"
            with suppress(Refused):  # one may run Jobs without the right to see events
                events = self._cluster.ask("core.list_namespaced_event", space, field_selector=selected)["items"]
                reasons += [event["message"] for event in events if event["reason"] != "FailedScheduling"]
        for reason in reasons:
            yield from self._note(f"Pending: {reason}")

    def _why_ended(self, job: Object, found: list[Object]) -> Iterator[bytes]:
        if self._mirror.last_state in ("finished", "failed"):
            return
        for pod in found:
            yield from (line for reason in pods.why_not(pod) for line in self._note(reason))
            container = pods.failed_first(pod)
            if container:
                said = list(self._cluster.log(pod["metadata"]["name"], container))
                yield from self._note(said[-1].decode(errors="replace") if said else f"container {container} failed")
        for one in job["status"].get("conditions", []):
            yield from self._note(f"the Job has ended: {one.get('reason', one['type'])}: {one.get('message', '')}")

    def _note(self, text: str) -> Iterator[bytes]:
        """Something that is no event, once."""
        if text.strip() and text not in self._said:
            self._said.add(text)
            yield note(text)


def job_of(cluster: Cluster, run: str) -> Object | None:
    """The Job of a run, as long as it is there."""
    try:
        return cluster.ask("batch.read_namespaced_job", run, cluster.namespace)
    except Missing:
        return None


def condition(job: Object, name: str) -> bool:
    """Whether a Job is Complete, or Failed."""
    found = job["status"].get("conditions", [])
    return any(one["type"] == name and one["status"] == "True" for one in found)


def gone(mirror: Mirror) -> Iterator[bytes]:
    """The last word of a run whose Job was deleted, unless it had one."""
    if mirror.last_state not in ENDS:
        line = json.dumps({"time": round(time.time(), 3), "event": "run", "state": "stopped", "status": 130}).encode()
        mirror.add(line)
        yield line
