"""vLLM started by serve_vllm.py, beside plain vLLM with the same command line: start-up and tokens a second.

Both serve the tiny Llama, one request after another and 16 at once. While one is asked, the other is frozen, since an
idle vLLM takes a core.
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
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import ROOT, Case, Comparison, Figures

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
PORTS = {"plain": 29817, "ours": 29818}
TOKENS, TOGETHER = 64, 16
Servers = Mapping[str, "subprocess.Popen[bytes]"]


def cases(scratch: Path) -> Iterator[Case]:
    """Start-up of vLLM, and then what it answers."""
    if not PYTHON.is_file():
        print("vLLM: `make setup-vllm` installs it; its case is left out", flush=True)
        return
    commands = {"plain": plain(scratch), "ours": ours(scratch, PORTS["ours"])}
    yield Case(
        "vLLM start-up",
        {name: lambda name=name: start_and_stop(name, commands[name]) for name in commands},
        [Comparison("vLLM: seconds to the first answer", "ours", "plain", 1.05)],
    )
    servers = {name: start(name, command) for name, command in commands.items()}
    try:
        yield Case(
            "vLLM",
            {name: lambda name=name: rates(name, servers) for name in servers},
            [
                Comparison("vLLM: tokens a second", "ours", "plain", 0.97, "tokens_a_second", at_least=True),
                Comparison("vLLM: tokens a second, 16 at once", "ours", "plain", 0.97, "together", at_least=True),
            ],
        )
    finally:
        for process in servers.values():
            stop(process)


def ours(scratch: Path, port: int) -> list[str]:
    command = [sys.executable, ROOT / "scripts" / "serve_vllm.py", "--python", PYTHON, "--port", port,
               "--model", ROOT / "recipes" / "assets" / "tiny_llama", "--output", f"{scratch}/out"]  # fmt: skip
    return list(map(str, command))


def plain(scratch: Path) -> list[str]:
    """What our launcher would start, started without it."""
    dry = [*ours(scratch, PORTS["plain"]), "--dry-run"]
    return ["env", *shlex.split(subprocess.run(dry, capture_output=True, text=True, check=True).stdout)]


def start(name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """A server that has answered."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not answers(PORTS[name]):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode}: {shlex.join(command)}")
        time.sleep(0.1)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def start_and_stop(name: str, command: list[str]) -> Figures:
    started = time.perf_counter()
    process = start(name, command)
    seconds = time.perf_counter() - started
    stop(process)
    return {"seconds": seconds}


def rates(name: str, servers: Servers) -> Figures:
    """Tokens a second of one server, one request after another and several at once, while the other is frozen."""
    others = [pid for other, process in servers.items() if other != name for pid in tree(process.pid)]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        return {"tokens_a_second": rate(PORTS[name], 1), "together": rate(PORTS[name], TOGETHER)}
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def answers(port: int) -> bool:
    try:
        ask(port, 0, tokens=1)
    except (OSError, urllib.error.URLError):
        return False
    return True


def rate(port: int, together: int) -> float:
    """Tokens a second."""
    requests = 2 * together
    started = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(lambda number: ask(port, number), range(requests)))
    return requests * TOKENS / (time.perf_counter() - started)


def ask(port: int, number: int, tokens: int = TOKENS) -> None:
    body = {"model": "base", "prompt": f"CREATE TABLE t{number}", "max_tokens": tokens, "temperature": 0,
            "ignore_eos": True}  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        response.read()
