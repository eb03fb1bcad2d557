"""vLLM started by serve_vllm.py, beside plain vLLM with the same command line: start-up and tokens a second.

    python tests/bench/serve.py --python .venv-vllm/bin/python

Both run one after the other, `--rounds` times, on the tiny Llama with one request after another and with 16 at once.
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
PORT = 29817
TOKENS, REQUESTS, TOGETHER = 64, 96, 16


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--python", default=str(ROOT / ".venv-vllm" / "bin" / "python"), help="a Python that has vLLM")
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ours = [sys.executable, ROOT / "scripts" / "serve_vllm.py", "--python", args.python, "--port", PORT,
                "--model", ROOT / "recipes" / "assets" / "tiny_llama", "--output", f"{scratch}/out"]  # fmt: skip
        ours = list(map(str, ours))
        line = subprocess.run([*ours, "--dry-run"], capture_output=True, text=True, check=True).stdout
        plain = ["env", *shlex.split(line)]
        found = {"plain": [], "ours": []}
        for _ in range(args.rounds):
            for name, command in (("plain", plain), ("ours", ours)):
                found[name].append(measure(command))
    ratios = {
        f"{figure}_ratio": round(statistics.median(
            own[figure] / other[figure] for own, other in zip(found["ours"], found["plain"], strict=True)), 3)
        for figure in ("startup_seconds", "tokens_per_second", "tokens_per_second_together")
    }  # fmt: skip
    print(json.dumps({"bench": "serving", "rounds": found, **ratios}))


def measure(command: list[str]) -> dict[str, float]:
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not answers():
            if process.poll() is not None:
                sys.exit(f"the server ended with status {process.returncode}: {shlex.join(command)}")
            time.sleep(0.1)
        startup = time.perf_counter() - started
        ask(0)
        return {
            "startup_seconds": round(startup, 2),
            "tokens_per_second": round(rate(1), 1),
            "tokens_per_second_together": round(rate(TOGETHER), 1),
        }
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers() -> bool:
    try:
        ask(0, tokens=1)
    except (OSError, urllib.error.URLError):
        return False
    return True


def rate(together: int) -> float:
    requests = REQUESTS if together > 1 else REQUESTS // 4
    started = time.perf_counter()
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(ask, range(requests)))
    return requests * TOKENS / (time.perf_counter() - started)


def ask(number: int, tokens: int = TOKENS) -> None:
    body = {"model": "base", "prompt": f"CREATE TABLE t{number}", "max_tokens": tokens, "temperature": 0,
            "ignore_eos": True}  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        response.read()


if __name__ == "__main__":
    main()
