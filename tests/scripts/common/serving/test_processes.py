"""Child processes end with their parent, on Linux."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.serving import processes

SCRIPTS = Path(__file__).parents[4] / "scripts"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SCRIPTS)}


def start(code: str) -> subprocess.Popen[str]:
    """A Python process that runs code with `processes`, `subprocess`, `signal` and `sys` at hand."""
    program = f"import signal, subprocess, sys\nfrom common.serving import processes\n{code}"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def has_ended(pid_file: int) -> bool:
    return bool(select.select([pid_file], [], [], 30)[0])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_process_after_its_finally_blocks(number: signal.Signals, status: int) -> None:
    block = "try:\n    print('ready', flush=True)\n    signal.pause()\nfinally:\n    print('tidy')"
    with start(f"processes.exit_on_signals()\n{block}") as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == "tidy\n"
    assert process.returncode == status


def test_a_child_ends_when_its_parent_is_killed() -> None:
    code = "child = subprocess.Popen(['sleep', '60'], preexec_fn=processes.end_with_parent)\n"
    with start(f"{code}print(child.pid, flush=True)\nsignal.pause()") as process:
        assert process.stdout
        child = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
        assert has_ended(child)


def test_children_and_orphans_are_ended_even_if_they_ignore_it() -> None:
    """The middle process leaves a child behind that ignores SIGTERM."""
    stubborn = "trap '' TERM; echo \\$\\$; exec sleep 60"
    middle = f'bash -c "{stubborn}" & wait'
    code = f"""
processes.adopt_orphans()
child = subprocess.Popen(['bash', '-c', {middle!r}], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
sys.stdin.readline()
processes.end_children(child, patience=30)
"""
    program = f"import signal, subprocess, sys\nfrom common.serving import processes\n{code}"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout and process.stdin
        orphan = os.pidfd_open(int(process.stdout.readline()))
        process.communicate("\n", timeout=60)
        assert process.returncode == 0 and has_ended(orphan)


def test_the_tools_of_an_environment_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    (tmp_path / "python").symlink_to(sys.executable)
    assert processes.search_path(str(tmp_path / "python")) == f"{tmp_path}:/usr/bin"
    assert processes.search_path("python3") == "/usr/bin"
