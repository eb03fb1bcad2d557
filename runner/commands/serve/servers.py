"""Which servers live: `runner serve --list`. Each is a run; what a killed one left is cleared away."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from runner.commands import tables
from runner.errors import RecipeError, did_you_mean
from runner.record import runs
from runner.record.runs import Run

LABEL = "trainium-recipes.output"  # of a container: see scripts/common/serving/vllm_options.py
_PATIENCE = 30.0  # seconds for an answer


@dataclass(frozen=True)
class Server:
    """A run whose server lives. `url` is None, and `models` empty, until it answers."""

    run: Run
    port: int
    url: str | None
    models: Sequence[str]
    since: float  # Unix time; of the run where it does not answer yet


def last(folder: Path) -> Run:
    """The run whose server was started last and lives, whether it answers yet or not. Raises RecipeError."""
    found = runs.matching("last", [one.run for one in live(folder)])
    if not found:
        raise RecipeError("last: no server lives; `runner cancel RUN` ends a run of any kind")
    return found[0]


def check(run: Run) -> None:
    """Raises RecipeError for a run that does not serve, or does not yet: ending it would lose work."""
    if not _serves(run):
        raise RecipeError(f"{run.name}: is no server, or not yet; `runner cancel {run.name}` ends a run of any kind")


def live(folder: Path) -> list[Server]:
    """The servers of the runs in `folder`, oldest first; of those elsewhere the ones that were not heard to end."""
    found = (_server(run) for run in runs.every(folder) if run.state in ("running", "away"))
    return [one for one in found if one]


def find(name: str, folder: Path) -> Server:
    """The server of that name, or of a part of it, or the `last` one. Raises RecipeError where it does not answer."""
    answering = {one.run: one for one in live(folder) if one.url}
    fitting = runs.matching(name, list(answering))
    if len(fitting) != 1:
        names = [run.name for run in answering]
        raise RecipeError(f"{name}: {'several' if fitting else 'no such'} server; {did_you_mean(name, names)}")
    return answering[fitting[0]]


def show(folder: Path, console: Console) -> None:
    """A table of the servers that live, each asked whether it answers."""
    reap(runs.every(folder))
    table = tables.table("server", "port", "models", "since", "where", "health")
    several = live(folder)
    for one in several:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.since))
        table.add_row(one.run.name, str(one.port), ", ".join(one.models), since, one.run.where, health(one))
    console.print(table if several else Text("No servers are running; `runner serve RUN` starts one."))


def health(server: Server) -> str:
    """Whether a server answers now, by a completion of one token: a healthy process may have an engine that hangs."""
    if not server.url:
        return "starting"
    body = {"model": server.models[0], "prompt": "a", "max_tokens": 1, "temperature": 0}
    started = time.monotonic()
    try:
        status = _post(*address(server), "/v1/completions", body)
    except (OSError, http.client.HTTPException) as error:
        away = server.run.recipe["target"]["host"] is not None
        return f"`runner attach {server.run.name}` leads there" if away else f"no answer: {error or 'it hangs'}"
    return f"answers, {time.monotonic() - started:.2f} s" if status == 200 else f"answers with status {status}"


def address(server: Server) -> tuple[str, int]:
    """Where a server is asked from here; of one elsewhere the port that leads to it."""
    place, target = urlsplit(server.url), server.run.recipe["target"]
    if target["host"] is None:
        return str(place.hostname), server.port
    return "127.0.0.1", target["forward"] or server.port


def reap(several: Sequence[Run]) -> None:
    """Remove containers whose client was killed: Docker lets them go on."""
    outputs = {output: run for run in several if (output := _container_of(run))}
    alive = {output for run in several if run.in_progress and (output := _container_of(run))}
    if not outputs or shutil.which("docker") is None:
        return
    for output in outputs.keys() - alive:
        left = _docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={output}").split()
        if left:
            _docker("rm", "--force", *left)
            print(f"removed the container that {outputs[output].name} left")


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, check=False, encoding="utf-8", errors="replace")
    if done.returncode:
        raise RecipeError(f"docker {words[0]}: {done.stderr.strip()}")
    return done.stdout


def _container_of(run: Run) -> str | None:
    """The launcher's --output where the run's server is in a container of this machine."""
    words = _words(run)
    if "--image" not in words or run.recipe["target"]["host"] is not None:
        return None
    return words[len(words) - 1 - words[::-1].index("--output") + 1]  # the server's own follows the smoke test's


def _server(run: Run) -> Server | None:
    begun = run.stages().get("serve")
    if not begun or not _serves(run):
        return None
    words = _words(run)
    said: dict[str, Any] = next((event for event in run.events() if event["event"] == "serving"), {})
    since = said.get("time", begun["time"])
    return Server(run, int(words[words.index("--port") + 1]), said.get("url"), said.get("models", []), since)


def _serves(run: Run) -> bool:
    """Whether its server is at work: that stage has begun, or is the only one, where the record here lags behind."""
    stages = [step["stage"] for step in run.plan["steps"]]
    begun = stages == ["serve"] or "serve" in run.stages()
    return begun and run.recipe["serve"]["mode"] == "foreground" and "--port" in _words(run)


def _words(run: Run) -> list[str]:
    return next((step["argv"] for step in run.plan["steps"] if step["stage"] == "serve"), [])


def _post(host: str, port: int, path: str, body: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()
