"""Follows a Kubernetes run: reads the logs of its pods, one after the other, as one event stream.

The executor prints every event with its offset in the stream, and every pod prints all events. So new events can be
recognized after a lost connection, a killed pod or a rotated log.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress

from runner.errors import RecipeError
from runner.execute.run_folder import ENDED, EVENTS, FINAL
from runner.targets.kubernetes import pods
from runner.targets.kubernetes.access import call, job_of, pods_of
from runner.targets.kubernetes.cluster import Cluster, Missing, Object, Refused
from runner.targets.kubernetes.forward import forwarding
from runner.targets.kubernetes.manifests import RUN, SERVER, JobSpec
from runner.targets.mirror import Mirror, note, reached_at

_POLL = 1.0  # seconds between requests while a run prints nothing
# Warnings that the pod itself says better, and one that stops no pod.
_SAID_OTHERWISE = ("FailedScheduling", "FailedToRetrieveImagePullSecret")
_VOLUME_PATIENCE = 120.0  # seconds for a pod that reads the rest of the events
_EVENT = re.compile(rb"(\d+) (\{.*\})")


class JobLog:
    """The events of a run that are not in `mirror` yet.

    While the log of the run's server is read, `port` of this machine (default: the same port) is forwarded to it.
    """

    def __init__(self, cluster: Cluster, job_spec: JobSpec, mirror: Mirror, port: int | None) -> None:
        self._cluster, self._job_spec, self._mirror, self._port = cluster, job_spec, mirror, port
        self._component = RUN
        self._read: set[str] = set()  # ids of container starts whose log was read completely
        self._noted: set[str] = set()  # notes
        self._is_complete = False  # whether the mirror has all events of a run that has ended

    def lines(self) -> Iterator[bytes]:
        """Events until the run has ended, and notes. Raises ClusterLost; it can then be called again."""
        while True:
            job = job_of(self._cluster, self._job_spec.run)  # before the pods, so that no pod is missed
            if job is None:
                yield from self._rest()
                yield from self._gone()
                return
            run_pods = pods_of(self._cluster, self._job_spec.run, self._component)
            pod = pods.newest(run_pods, self._component)
            start = pods.started(pod, self._component) if pod else None
            if pod and start and start not in self._read:
                yield from self._pod(pod, start)
            elif self._may_serve(job):
                self._serve(1)
            elif self._ended(job):
                yield from self._rest()
                yield from self._why_ended(job, run_pods)
                return
            else:
                if "deletionTimestamp" not in job["metadata"]:
                    yield from self._why_pending(job, run_pods)
                time.sleep(_POLL)

    def _pod(self, pod: Object, start: str) -> Iterator[bytes]:
        """The log of a container. The log of a running one is read again, since the stream may end before it does."""
        name, serves = pod["metadata"]["name"], self._component == SERVER
        remote_port = self._job_spec.port if serves else 0
        local_port = self._port or remote_port
        with forwarding(self._cluster, name, remote_port, local_port) if serves else nullcontext():
            if serves:
                yield from self._note(reached_at(local_port), "info")
            try:
                for line in self._cluster.log(name, self._component):
                    yield from self._new(line)
            except Missing:
                return  # deleted meanwhile
            except Refused as refused:  # the container is being recreated, or logs are not permitted
                yield from self._note(str(refused))
        if pods.running(pod, self._component):
            time.sleep(_POLL)
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
        """Events before `offset` that were missed, read from the volume."""
        yield from self._add(self._tail()[: offset - self._mirror.size])

    def _rest(self) -> Iterator[bytes]:
        """Events that no log has any more, read from the volume: a pod that has ended may be gone, and its Job too."""
        if self._mirror.last_state in FINAL:
            return
        try:
            tail = self._tail()
            yield from self._add(tail[: tail.rfind(b"\n") + 1])
            self._is_complete = True
        except (RecipeError, Missing) as error:
            yield from self._note(f"the last events of the run cannot be read from its volume: {error}")

    def _tail(self) -> bytes:
        """The event stream on the volume after what the mirror has; empty if the run never began."""
        events, offset = f"{self._job_spec.root}/{self._job_spec.folder}/{EVENTS}", f"+{self._mirror.size + 1}"
        tail = ["sh", "-c", 'test ! -e "$1" || tail -c "$2" "$1"', "sh", events, offset]
        return call(self._cluster, self._job_spec, lambda _: tail, _VOLUME_PATIENCE)

    def _gone(self) -> Iterator[bytes]:
        """The final event of a run whose Job was deleted before the run reported one."""
        if self._is_complete and self._mirror.last_state not in ENDED:
            yield from self._add(stopped())

    def _add(self, lines: bytes) -> Iterator[bytes]:
        for line in lines.splitlines():
            self._mirror.add(line)
            yield line

    def _may_serve(self, job: Object) -> bool:
        done = self._component == RUN and condition(job, "Complete")
        return done and self._job_spec.server is not None and self._mirror.last_state != "failed"

    def _serve(self, replicas: int) -> None:
        """Scale the server to 1 replica or 0."""
        size = {"spec": {"replicas": replicas}}
        space = self._cluster.namespace
        self._cluster.ask("apps.patch_namespaced_deployment_scale", self._job_spec.run, space, size)
        self._component = SERVER

    def _ended(self, job: Object) -> bool:
        if self._component == RUN:
            return condition(job, "Complete") or condition(job, "Failed")
        failed = self._mirror.last_state == "failed"
        if failed:
            self._serve(0)  # otherwise it would be retried for ever
        return failed

    def _why_pending(self, job: Object, run_pods: list[Object]) -> Iterator[bytes]:
        """Why no pod runs: the reasons of the newest pod, and the warnings about it and the Job."""
        pod = pods.newest(run_pods)
        if pod and pods.started(pod, self._component):
            return
        reasons = [*(pods.pending_reasons(pod) if pod else pods.held_back(job))]
        namespace = self._cluster.namespace
        for name in (self._job_spec.run, *([pod["metadata"]["name"]] if pod else [])):
            selected = f"type=Warning,involvedObject.name={name}"
            with suppress(Refused):  # a user may lack the right to read events
                events = self._cluster.ask("core.list_namespaced_event", namespace, field_selector=selected)["items"]
                reasons += [event["message"] for event in events if self._holds_back(event)]
        for reason in reasons:
            yield from self._note(f"Pending: {reason}")

    def _holds_back(self, event: Object) -> bool:
        """Whether a warning tells why a pod does not start. The Job is created before the objects that it mounts."""
        if not event["reason"].startswith(("Failed", "BackOff", "Err")) or event["reason"] in _SAID_OTHERWISE:
            return False
        return f'"{self._job_spec.run}" not found' not in event["message"]

    def _why_ended(self, job: Object, run_pods: list[Object]) -> Iterator[bytes]:
        if self._mirror.last_state in FINAL:
            return
        for pod in run_pods:
            yield from (line for reason in pods.pending_reasons(pod) for line in self._note(reason))
            container = pods.failed_init_container(pod)
            if container:
                output = list(self._cluster.log(pod["metadata"]["name"], container))
                yield from self._note(
                    output[-1].decode(errors="replace") if output else f"container {container} failed"
                )
        for entry in job["status"].get("conditions", []):
            yield from self._note(
                f"the Job has ended: {entry.get('reason', entry['type'])}: {entry.get('message', '')}"
            )

    def _note(self, text: str, level: str = "warning") -> Iterator[bytes]:
        """A message that is not an event; each is shown once."""
        if text.strip() and text not in self._noted:
            self._noted.add(text)
            yield note(text, level)


def stopped() -> bytes:
    """The final event of a run that was ended from outside."""
    event = {"time": round(time.time(), 3), "event": "run", "state": "stopped", "status": 130}
    return json.dumps(event).encode()


def condition(job: Object, name: str) -> bool:
    """Whether a condition of a Job, Complete or Failed, is true."""
    conditions = job["status"].get("conditions", [])
    return any(entry["type"] == name and entry["status"] == "True" for entry in conditions)
