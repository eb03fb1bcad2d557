"""Servers of the tiny Llama: vLLM started by serve_vllm.py beside plain vLLM with the same command line, and
serve_embedded.py beside `transformers serve`.

Each is started for every measurement, alone, since an idle vLLM takes a core: from its start to its first answer, then
with one request after another and 16 at once.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path

from measure import ROOT, Case, Comparison, Figures

from runner.execute.process import _threads

VLLM = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = ROOT / "recipes" / "assets" / "tiny_llama"
TOKENS, TOGETHER, REQUESTS = 64, 16, 128


@dataclass(frozen=True)
class Server:
    """The command of a server, its port, what requests call the model, and variables to set."""

    command: Sequence[str]
    port: int
    model: str = "base"
    environment: Mapping[str, str] = field(default_factory=dict)


def cases(scratch: Path, transformers: Path | None) -> Iterator[Case]:
    """Our servers, each beside its peer; `transformers` is the program of that name."""
    if VLLM.is_file():
        yield _beside("vLLM", {"ours": _vllm(scratch), "plain": _plain_vllm(scratch)}, 1.05, 0.97)
    else:
        print("vLLM: `make setup-vllm` installs it; its case is left out", flush=True)
    if transformers:
        servers = {"ours": _embedded(), "transformers serve": _transformers_serve(transformers)}
        yield _beside("embedded server", servers, 1.0, 1.0)


def _beside(what: str, servers: Mapping[str, Server], longest: float, slowest: float) -> Case:
    """Our server beside another one: the goals are ratios of seconds and of tokens a second."""
    ours, peer = servers
    return Case(
        what,
        {name: lambda server=server: measured(server) for name, server in servers.items()},
        [
            Comparison(f"{what}: seconds to the first answer", ours, peer, longest),
            Comparison(f"{what}: tokens a second", ours, peer, slowest, "tokens_a_second", at_least=True),
            Comparison(f"{what}: tokens a second, 16 at once", ours, peer, slowest, "together", at_least=True),
            Comparison(f"{what}: seconds to the first token", ours, peer, longest, "first_token"),
        ],
    )


def _vllm(scratch: Path, port: int = 29818) -> Server:
    command = [sys.executable, ROOT / "scripts" / "serve_vllm.py", "--python", VLLM, "--port", port,
               "--model", MODEL, "--output", f"{scratch}/out"]  # fmt: skip
    return Server([str(word) for word in command], port)


def _plain_vllm(scratch: Path) -> Server:
    """What our launcher would start, started without it."""
    server = _vllm(scratch, 29817)
    dry = subprocess.run([*server.command, "--dry-run"], capture_output=True, text=True, check=True)
    return Server(["env", *shlex.split(dry.stdout)], server.port)


def _embedded() -> Server:
    command = [sys.executable, ROOT / "scripts" / "serve_embedded.py", "--model", MODEL, "--port", 29819]
    return Server([str(word) for word in command], 29819, environment=_threads(1))


def _transformers_serve(program: Path) -> Server:
    options = ["--device", "cpu", "--dtype", "float32", "--port", "29820"]
    return Server([str(program), "serve", str(MODEL), *options], 29820, str(MODEL))


def measured(server: Server) -> Figures:
    """What a server does, from its start to its end."""
    started = time.perf_counter()
    with running(server):
        return {
            "seconds": time.perf_counter() - started,
            "tokens_a_second": rate(server, 1),
            "together": rate(server, TOGETHER),
            "first_token": min(first_token(server, number) for number in range(9)),
        }


@contextmanager
def running(server: Server) -> Iterator[None]:
    """A server that has answered."""
    process = subprocess.Popen(
        server.command, env={**os.environ, **server.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        while not answers(server):
            if process.poll() is not None:
                raise SystemExit(f"the server ended with status {process.returncode}: {shlex.join(server.command)}")
            time.sleep(0.1)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers(server: Server) -> bool:
    try:
        ask(server, 0, max_tokens=1)
    except urllib.error.HTTPError as error:
        if error.code < 500:
            raise
        return False
    except OSError:
        return False
    return True


def rate(server: Server, together: int) -> float:
    """Tokens a second, once the server is warm."""
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(lambda number: ask(server, number), range(TOGETHER)))
        started = time.perf_counter()
        tokens = sum(pool.map(lambda number: ask(server, number), range(REQUESTS)))
    return tokens / (time.perf_counter() - started)


def ask(server: Server, number: int, max_tokens: int = TOKENS) -> int:
    """Ask for a greedy answer; returns how many tokens it has."""
    with request(server, number, max_tokens=max_tokens) as response:
        return json.load(response)["usage"]["completion_tokens"]


def first_token(server: Server, number: int) -> float:
    """Seconds until a stream brings its first text."""
    started = time.perf_counter()
    with request(server, number, max_tokens=TOKENS, stream=True) as response:
        for line in response:
            _, event, data = line.partition(b"data: ")
            if event and any(choice.get("text") for choice in json.loads(data)["choices"]):
                return time.perf_counter() - started
    raise SystemExit(f"no text in a stream of {shlex.join(server.command)}")


def request(server: Server, number: int, **options: object) -> HTTPResponse:
    body = {"model": server.model, "prompt": f"CREATE TABLE t{number}", "temperature": 0, **options}
    url, headers = f"http://127.0.0.1:{server.port}/v1/completions", {"Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=120)
