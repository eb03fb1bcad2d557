"""A real Ray cluster on loopback: a head and another node, with NeuronCores declared. RAY names the `ray` command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import daemons
from ssh_host import free_ports

ROOT = Path(__file__).resolve().parents[2]
RAY = os.environ.get("RAY") or shutil.which("ray") or str(ROOT / ".venv-ray" / "bin" / "ray")
CPUS, CORES = 8, 16  # of a node, declared
_QUIET = {"RAY_DISABLE_IMPORT_WARNING": "1"}


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    return "" if Path(RAY).exists() else "no Ray: make setup-ray, or RAY=/path/to/ray"


@contextmanager
def ray_cluster(nodes: int = 2, **variables: str) -> Iterator[str]:
    """Start it, with environment `variables`, and end it; its dashboard's address.

    Its folder has a short name: a socket's may have 107 characters.
    """
    head, dashboard, client, *agents = free_ports(3 + nodes)
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    common = [RAY, "start", "--block", f"--num-cpus={CPUS}", "--resources", json.dumps({"neuron_cores": CORES}),
              "--disable-usage-stats", "--object-store-memory=100000000"]  # fmt: skip
    first = ["--head", f"--port={head}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
             "--include-dashboard=true", f"--temp-dir={folder}",
             f"--ray-client-server-port={client}"]  # fmt: skip
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        address, started = f"http://127.0.0.1:{dashboard}", []
        for number, agent in enumerate(agents):
            its = [*first, "--node-ip-address=127.0.0.1"] if number == 0 else [f"--address=127.0.0.1:{head}"]
            command = [*common, *its, f"--dashboard-agent-listen-port={agent}"]
            log, environment = folder / f"node-{number}.log", {**os.environ, **variables, **_QUIET}
            # `ray start --block` ends what it started when it is asked to end.
            started.append(daemons.started(stack, log, command, env=environment))
            _await_nodes(address, started)
        _await_job_agent(address)
        yield address


def _await_nodes(address: str, started: list[subprocess.Popen]) -> None:
    """Until all that were started have joined."""
    while _living_nodes(address) < len(started):
        ended = [process.args for process in started if process.poll() is not None]
        assert not ended, ended
        time.sleep(0.2)


def _await_job_agent(address: str) -> None:
    """Until jobs are taken, which is some time after the nodes are there."""
    kind = {"Content-Type": "application/json"}
    job = urllib.request.Request(f"{address}/api/jobs/", b'{"entrypoint": "true"}', kind)
    for _ in range(600):
        try:
            urllib.request.urlopen(job, timeout=60).close()
            return
        except urllib.error.HTTPError:
            time.sleep(0.2)
    raise TimeoutError(f"{address} takes no job")


def _living_nodes(address: str) -> int:
    try:
        with urllib.request.urlopen(f"{address}/nodes?view=summary", timeout=10) as answer:
            nodes = json.loads(answer.read())["data"]["summary"]
    except (OSError, ValueError):
        return 0
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)
