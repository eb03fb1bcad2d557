"""Ray: a run is a job of its Job API, over HTTP. Ray assigns the NeuronCores.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html

Standard library alone.
"""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.execute.rendezvous import NODE_NAME
from runner.execute.run_folder import EXECUTOR_LOG
from runner.execute.schedulers import base
from runner.execute.schedulers.base import GAVE_UP, Refused, Unreachable, python_path

_TIMEOUT = 30.0  # seconds for an answer
_START_TIMEOUT = "RAY_JOB_START_TIMEOUT_SECONDS"  # in the message of a job that waited for longer than that
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


class Scheduler(base.Scheduler):
    """One job a run; its id is `ADDRESS#SUBMISSION`."""

    cancels_waiting_jobs = False

    def submit(self, plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
        submitted: list[list[str]] = []
        for run, plan in plans.items():
            address = plan["job"]["address"]
            try:
                answer = _call(address, "POST", "", job_request(Path.cwd(), run, plan))
            except (Refused, Unreachable) as error:
                for ids in submitted:
                    self.cancel(ids)
                raise Refused(f"target.ray.address: {address}: {error}") from None
            submitted.append([f"{address}#{answer['submission_id']}"])
        return submitted

    def submission(self, plan: Mapping[str, Any], run: str) -> str:
        return json.dumps(job_request(Path("FOLDER"), Path(run), plan), indent=2) + "\n"

    def state(self, ids: Sequence[str]) -> str:
        try:
            job = _job(ids)
        except Refused:  # a head node that was restarted does not know the job
            return "gone"
        if job["status"] == "FAILED" and _START_TIMEOUT in (job.get("message") or ""):
            return GAVE_UP
        if job["status"] == "PENDING":
            return f"waiting: {job.get('message') or 'for resources'}"
        return "gone" if job["status"] in _ENDED else "running"

    def reason(self, ids: Sequence[str]) -> str:
        try:
            return _job(ids)["message"]
        except (Refused, Unreachable):
            return ""

    def cancel(self, ids: Sequence[str]) -> None:
        address, _, name = ids[0].partition("#")
        _call(address, "POST", f"{name}/stop")


def job_request(folder: Path, run: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request to run a plan's executor in `folder`, the one that plans run in."""
    job = plan["job"]
    executor = shlex.join([job["python"], "-m", "runner.execute", str(run / "plan.json"), "--run", str(run)])
    environment = f"PYTHONUTF8=1 PYTHONPATH={python_path(job['code'])}"
    command = f"cd {shlex.quote(str(folder))} && {environment} exec {executor}"
    return {
        "entrypoint": f"export {NODE_NAME}=$(hostname); {command} >>{shlex.quote(str(run / EXECUTOR_LOG))} 2>&1",
        "entrypoint_num_cpus": job["cpus"],
        "entrypoint_resources": job["resources"],
        "metadata": {"run": run.name, "recipe": plan["recipe"]},
    }


def _job(ids: Sequence[str]) -> dict[str, Any]:
    address, _, name = ids[0].partition("#")
    return _call(address, "GET", name)


def _call(address: str, method: str, path: str, body: Any = None) -> Any:
    """An answer of the Job API. Raises Refused with the reason that it gives, Unreachable if it does not answer."""
    request = urllib.request.Request(
        f"{address.rstrip('/')}/api/jobs/{path}",
        json.dumps(body or {}).encode() if method == "POST" else None,
        {"Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        lines = error.read().decode(errors="replace").strip().splitlines() or [error.reason]
        raise Refused(lines[-1]) from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"no Ray cluster answers: {getattr(error, 'reason', error)}") from None
