"""Ray: a run is a job of its Job API, spoken over HTTP. Ray says which NeuronCores it gets.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html

Standard library alone: it travels.
"""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.execute import executor
from runner.execute.schedulers import Refused, Unreachable, path

ENDS_WAITING = False  # the stop is heard when the job begins
_PATIENCE = 30.0  # seconds for an answer
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


def submit(plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
    """One job a run; its id begins with the cluster's address."""
    ids: list[list[str]] = []
    try:
        for run, plan in plans.items():
            answer = _call(plan["job"]["address"], "POST", "", asked(Path.cwd(), run, plan))
            ids.append([f"{plan['job']['address']}#{answer['submission_id']}"])
    except (Refused, Unreachable) as error:
        for one in ids:
            cancel(one)
        raise Refused(f"target.ray.address: {plan['job']['address']}: {error}") from None
    return ids


def text(plan: Mapping[str, Any], run: str) -> str:
    """The body of the request."""
    return json.dumps(asked(Path("FOLDER"), Path(run), plan), indent=2) + "\n"


def asked(folder: Path, run: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the Job API is asked for: the executor, in the folder that plans run in."""
    job = plan["job"]
    command = [job["python"], "-m", "runner.execute", str(run / "plan.json"), "--run", str(run)]
    words = f"cd {shlex.quote(str(folder))} && PYTHONUTF8=1 PYTHONPATH={path(job['code'])} exec {shlex.join(command)}"
    where = f"export {executor.NAME}=$(hostname)"
    return {
        "entrypoint": f"{where}; {words} >>{shlex.quote(str(run / 'executor.log'))} 2>&1",
        "entrypoint_num_cpus": job["cpus"],
        "entrypoint_resources": job["resources"],
        "metadata": {"run": run.name, "recipe": plan["recipe"]},
    }


def look(ids: Sequence[str]) -> str:
    address, _, name = ids[0].partition("#")
    try:
        told = _call(address, "GET", name)
    except Refused:  # a head that was started anew knows nothing of it
        return "gone"
    if told["status"] == "PENDING":
        return f"waiting: {told.get('message') or 'for a place'}"
    return "gone" if told["status"] in _ENDED else "running"


def reason(ids: Sequence[str]) -> str:
    address, _, name = ids[0].partition("#")
    try:
        return _call(address, "GET", name)["message"]
    except (Refused, Unreachable):
        return ""


def cancel(ids: Sequence[str]) -> None:
    address, _, name = ids[0].partition("#")
    _call(address, "POST", f"{name}/stop")


def _call(address: str, method: str, path: str, body: Any = None) -> Any:
    """An answer of the Job API. Raises Refused with the reason that it gives, Unreachable without an answer."""
    request = urllib.request.Request(
        f"{address.rstrip('/')}/api/jobs/{path}", json.dumps(body or {}).encode() if method == "POST" else None,
        {"Content-Type": "application/json"}, method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace").strip().splitlines() or [error.reason]
        raise Refused(said[-1]) from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"no Ray answers: {getattr(error, 'reason', error)}") from None
