"""A process that limits itself ends, or gets no more memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[3] / "scripts"


def run(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", f"from common import process_limits\n{code}"]
    return subprocess.run(words, cwd=SCRIPTS, capture_output=True, encoding="utf-8", check=False)


def test_what_takes_too_long_is_ended() -> None:
    assert run("process_limits.limit_cpu_seconds(1)\nwhile True: pass").returncode == -signal.SIGXCPU


def test_what_takes_too_much_memory_gets_no_more() -> None:
    done = run("process_limits.limit_memory(200 * 2**20)\nbytes(300 * 2**20)")
    assert done.stderr.splitlines()[-1] == "MemoryError"


def test_a_limit_that_is_lower_already_stays() -> None:
    lower = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (200 * 2**20, 200 * 2**20))\n"
    assert run(lower + "process_limits.limit_memory(900 * 2**20)\nbytes(300 * 2**20)").returncode == 1
