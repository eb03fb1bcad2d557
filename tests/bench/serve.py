"""vLLM started by serve_vllm.py, beside plain vLLM with the same command line: start-up and tokens a second.

    python tests/bench/serve.py --python .venv-vllm/bin/python

Each of the `--rounds` starts both, one after the other. Then they are asked the same questions in turns, `--pairs`
times, while the other one is frozen, since an idle vLLM takes a core: what else the machine does meanwhile meets both.
The tiny Llama, with one request after another and with 16 at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"plain": 29817, "ours": 29818}
TOKENS, TOGETHER = 64, 16


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--python", default=str(ROOT / ".venv-vllm" / "bin" / "python"), help="a Python that has vLLM")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--pairs", type=int, default=30)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        commands = {"plain": plain(args.python, scratch), "ours": ours(args.python, scratch, PORTS["ours"])}
        startups = []
        for left in reversed(range(args.rounds)):
            servers = {name: start(name, command) for name, command in commands.items()}
            startups.append(servers["ours"][1] / servers["plain"][1])
            if not left:
                processes = {name: process for name, (process, _) in servers.items()}
                rates = [in_turns(processes) for _ in range(args.pairs + 1)][1:]  # the first one warms up
            for process, _ in servers.values():
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    one, many = ([pair["ours"][kind] / pair["plain"][kind] for pair in rates] for kind in (0, 1))
    found = {"startup_seconds": startups, "tokens_per_second": one, "tokens_per_second_together": many}
    print(json.dumps({"bench": "serving", "pairs": args.pairs, **{
        f"{name}_ratio": round(statistics.median(ratios), 3) for name, ratios in found.items()}, **{
        f"{name}_quartiles": [round(cut, 3) for cut in statistics.quantiles(ratios, n=4)[::2]]
        for name, ratios in found.items() if len(ratios) > 1}}))  # fmt: skip


def ours(python: str, scratch: str, port: int) -> list[str]:
    command = [sys.executable, ROOT / "scripts" / "serve_vllm.py", "--python", python, "--port", port,
               "--model", ROOT / "recipes" / "assets" / "tiny_llama", "--output", f"{scratch}/out"]  # fmt: skip
    return list(map(str, command))


def plain(python: str, scratch: str) -> list[str]:
    """What our launcher would start, started without it."""
    dry = [*ours(python, scratch, PORTS["plain"]), "--dry-run"]
    return ["env", *shlex.split(subprocess.run(dry, capture_output=True, text=True, check=True).stdout)]


def start(name: str, command: list[str]) -> tuple[subprocess.Popen[bytes], float]:
    """The server, and the seconds until it has answered."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not answers(PORTS[name]):
        if process.poll() is not None:
            sys.exit(f"the server ended with status {process.returncode}: {shlex.join(command)}")
        time.sleep(0.1)
    return process, time.perf_counter() - started


def in_turns(servers: dict[str, subprocess.Popen[bytes]]) -> dict[str, tuple[float, float]]:
    """Tokens a second of each, one request after another and several at once, while the others are frozen."""
    found = {}
    for name, port in PORTS.items():
        others = [pid for other, process in servers.items() if other != name for pid in tree(process.pid)]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        found[name] = (rate(port, 1), rate(port, TOGETHER))
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    return found


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


if __name__ == "__main__":
    main()
