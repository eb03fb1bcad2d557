"""The running servers: `runner serve --list`. Each is a run; containers of killed servers are removed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands import tables
from runner.commands.questions import at_once
from runner.errors import RecipeError, did_you_mean
from runner.plan.model import HERE
from runner.record import runs
from runner.record.runs import Run

LABEL = "trainium-recipes.output"  # of a container: see scripts/common/serving/vllm_options.py
_PATIENCE = 30.0  # seconds for an answer


@dataclass(frozen=True)
class Server:
    """A run whose server is running. `url` is None, and `models` empty, until it is ready."""

    run: Run
    port: int
    url: str | None
    models: Sequence[str]
    since: float  # Unix time when it became ready, or when its stage began


def last(folder: Path) -> Run:
    """The run whose server was started last, ready or not. Raises RecipeError if none is running."""
    matches = runs.matching("last", [server.run for server in live(folder)])
    if not matches:
        raise RecipeError("last: no servers are running; `runner cancel RUN` stops a run of any kind")
    return matches[0]


def check(run: Run) -> None:
    """Raises RecipeError for a run that is not serving, or not yet: stopping it would lose work."""
    if not has_begun(run):
        raise RecipeError(f"{run.name}: not serving (yet); `runner cancel {run.name}` stops a run of any kind")


def live(folder: Path) -> list[Server]:
    """The servers of the runs in `folder`, oldest first, with remote ones that are not known to have ended."""
    candidates = runs.read_each(runs.every(folder), _candidate).values()
    return [server for server in candidates if server]


def _candidate(run: Run) -> Server | None:
    _ = run.plan, run.recipe  # which its users read
    return _server(run) if run.state in runs.ACTIVE else None


def owner_of_port(port: int, where: str, folder: Path) -> Run | None:
    """The run on the machine `where` whose server has a port, or will have it once its other stages are done."""
    active = runs.read_each(runs.every(folder), lambda run: run.state in runs.ACTIVE and _port(run))
    return next((run for run, its_port in active.items() if its_port == port and run.where == where), None)


def find(name: str, folder: Path) -> Server:
    """The ready server whose run is called `name`, contains it, or is the `last` one. Raises RecipeError."""
    ready = {server.run: server for server in live(folder) if server.url}
    matches = runs.matching(name, list(ready))
    if len(matches) > 1:
        raise RecipeError(f'"{name}" matches {len(matches)} servers: {", ".join(run.name for run in matches)}')
    if not matches:
        raise RecipeError(f"{name}: no such server; {did_you_mean(name, [run.name for run in ready])}")
    return ready[matches[0]]


def of_run(run: Run) -> Server:
    """The ready server of exactly this run. Raises RecipeError if it has none."""
    server = _candidate(run)
    if server is None or not server.url:
        raise RecipeError(f"{run.name}: its server is not, or no longer, ready")
    return server


def show(folder: Path, console: Console) -> None:
    """Print a table of the running servers, with a health check of each."""
    reap(runs.readable(runs.every(folder), lambda run: (run.plan, run.recipe)))
    table = tables.table("server", "port", "models", "since", "where", "health")
    servers = live(folder)
    checked: dict[Run, str] = {}
    at_once([partial(_check_health, server, checked) for server in servers], 2 * _PATIENCE)
    for server in servers:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(server.since))
        run = server.run
        table.add_row(
            run.name, str(server.port), ", ".join(server.models), since, run.where, checked.get(run, "no answer")
        )
    console.print(table if servers else Text("No servers are running. Start one with `runner serve RUN`."))


def _check_health(server: Server, checked: dict[Run, str]) -> None:
    checked[server.run] = health(server)


def health(server: Server) -> str:
    """Check a server with a completion of one token: the process may be healthy while its engine hangs."""
    if not server.url:
        return "starting"
    body = {"model": server.models[0], "prompt": "a", "max_tokens": 1, "temperature": 0}
    started = time.monotonic()
    try:
        status = _post(*address(server), "/v1/completions", body)
    except (OSError, http.client.HTTPException) as error:
        if server.run.where != HERE and address(server)[0] == "127.0.0.1":  # nobody forwards its port now
            return f"connect with `runner attach {server.run.name}`"
        return f"no answer: {error or 'timed out'}"
    return f"answers, {time.monotonic() - started:.2f} s" if status == 200 else f"answers with status {status}"


def address(server: Server) -> tuple[str, int]:
    """Host and port of a server as seen from here: the forwarded port of a remote one."""
    return targets.of_run(server.run).server_address(str(urlsplit(server.url).hostname), server.port)


def reap(selected: Sequence[Run]) -> None:
    """Remove containers whose client was killed: Docker keeps them running."""
    outputs = {output: run for run in selected if (output := _container_of(run))}
    alive = {output for run in selected if run.in_progress and (output := _container_of(run))}
    if not outputs or shutil.which("docker") is None:
        return
    for output in outputs.keys() - alive:
        orphans = _docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={output}").split()
        if orphans:
            _docker("rm", "--force", *orphans)
            print(f"removed the orphaned container of {outputs[output].name}")


def _docker(*args: str) -> str:
    done = subprocess.run(["docker", *args], capture_output=True, check=False, encoding="utf-8", errors="replace")
    if done.returncode:
        raise RecipeError(f"docker {args[0]}: {done.stderr.strip()}")
    return done.stdout


def _container_of(run: Run) -> str | None:
    """The launcher's --output if the run's server is in a container on this machine, else None."""
    args = _args(run)
    if "--image" not in args or run.recipe["target"]["host"] is not None:
        return None
    return args[len(args) - 1 - args[::-1].index("--output") + 1]  # the server's own follows the smoke test's


def _server(run: Run) -> Server | None:
    began = run.stages().get("serve")
    port = _port(run)
    if not began or port is None:
        return None
    serving: dict[str, Any] = next(run.events("serving"), {})
    since = serving.get("time", began["time"])
    return Server(run, port, serving.get("url"), serving.get("models", []), since)


def has_begun(run: Run) -> bool:
    """Whether its server has started: that stage has begun, or is the only one (a remote record may lag behind)."""
    stages = [step["stage"] for step in run.plan["steps"]]
    return (stages == ["serve"] or "serve" in run.stages()) and _port(run) is not None


def _port(run: Run) -> int | None:
    """Where its server listens until it is stopped; None for a run without such a server."""
    args = _args(run)
    listens = run.recipe["serve"]["mode"] == "foreground" and "--port" in args
    return int(args[args.index("--port") + 1]) if listens else None


def _args(run: Run) -> list[str]:
    return next((step["argv"] for step in run.plan["steps"] if step["stage"] == "serve"), [])


def _post(host: str, port: int, path: str, body: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        key = os.environ.get("VLLM_API_KEY")
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **authorization})
        return connection.getresponse().status
    finally:
        connection.close()
