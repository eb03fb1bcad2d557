"""Runs the command of a step in a process group of its own, and ends whatever is left of it. Standard library alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.execute import credentials, signals

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_GRACE = 45.0  # seconds between SIGTERM and SIGKILL: a training saves a checkpoint; torchrun kills its ranks after 30
_SKEW = 0.5  # seconds: who ends a whole job may signal the step before this program; then it was stopped, not failed
# In what torchrun prints when a rank has failed; a negative exit code is a signal.
_ROOT_CAUSE = re.compile(r"Root Cause \(first observed failure\):.*?rank\s*: (\d+) .*?exitcode\s*: -(\d+) ", re.DOTALL)


class StepFailed(Exception):
    """A step cannot run, or its command ended with another exit status than 0."""

    def __init__(self, stage: str, status: int, reason: str):
        super().__init__(reason)
        self.stage, self.status, self.reason = stage, status, reason


def run_command(
    step: Mapping[str, Any], log: Path, events: Path, environment: Mapping[str, str], inherit: Sequence[int]
) -> int:
    """Run a step's command with its output in `log`; returns the peak memory, in bytes, of its largest process.

    The command inherits the file descriptors `inherit`, and with them their locks. Raises StepFailed.
    """
    described = {
        "RUNNER_EVENTS": str(events.resolve()),
        "RUNNER_STAGE": step["stage"],
        "PATH": _search_path(step["argv"][0]),
    }
    variables = {
        **_threads(step.get("processes", 1)), **credentials.of_step(step), **step["env"], **environment, **described,
    }  # fmt: skip
    ooms, begin = _oom_kills(), log.stat().st_size if log.exists() else 0
    options = {"env": variables, "pass_fds": inherit, "preexec_fn": die_with_parent}
    with contextlib.ExitStack() as group:
        process = start(group, step["argv"], log, _terminate_group, **options)
        _, wait_status, usage = os.wait4(process.pid, 0)
        status = process.returncode = os.waitstatus_to_exitcode(wait_status)
    if status != 0:
        time.sleep(_SKEW)
        raise StepFailed(step["stage"], status, _failure(step["argv"], status, log, begin) + _memory(ooms))
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start(
    group: contextlib.ExitStack, command: Sequence[str], log: Path, end: Callable[[subprocess.Popen], object],
    **options: Any,
) -> subprocess.Popen:  # fmt: skip
    """Start a command in a session of its own that adds its output to `log`; `options` are those of Popen.

    When `group` closes, `end` ends what is left of it, also if a signal arrives while it starts.
    """
    with log.open("ab") as output, signals.deferred():
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **options
        )
        group.callback(end, process)
    return process


def die_with_parent() -> None:
    """For Popen(preexec_fn=): have the kernel send the child SIGTERM when the process that started it dies."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def environment_bin(python: str) -> Path | None:
    """The folder with the programs of a Python's environment; None for a bare name, which PATH finds already.

    It is where the Python is named, not where a link leads: an environment's `python` often links to /usr/bin.
    """
    return Path(python).parent if os.sep in python else None


def _search_path(python: str) -> str:
    """PATH for a step, beginning with its environment: Neuron's tools, such as neuronx-cc, are called by bare name."""
    folder, inherited = environment_bin(python), os.environ.get("PATH", os.defpath)
    return f"{folder.absolute()}{os.pathsep}{inherited}" if folder else inherited


def _threads(processes: int) -> dict[str, str]:
    """An equal share of the CPUs for each process; torchrun would give it one unless OMP_NUM_THREADS is set.

    Threads that wait for each other sleep soon instead of spinning: beside a busy process, spinning takes most of the
    time.
    """
    waiting = {} if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "1000"}
    if processes == 1:
        return waiting
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cpus // processes)), **waiting}


def _terminate_group(process: subprocess.Popen) -> None:
    """End whatever is left of the step's process group: SIGTERM, some time to clean up, SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(argv: Sequence[str], status: int, log: Path, start: int) -> str:
    """Why a step failed: the last line that its own program wrote since byte `start` of the log, a rank that was
    killed, or else the last line.
    """
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    prefixes = tuple(f"{Path(argument).name}: " for argument in argv if argument.endswith(".py"))
    messages = [line for line in lines if line.startswith(prefixes)] or _killed_rank(text)
    if not messages and not shutil.disk_usage(log).free:
        return f"the disk is full: no space left below {log.parent.resolve()}"
    how = f"killed by {_signal(-status)}" if status < 0 else f"exit status {status}"
    return f"{(messages or lines or ['it printed nothing'])[-1]} ({how}; all of its output: {log})"


def _killed_rank(text: str) -> list[str]:
    """The rank that torchrun names as the first to fail, if a signal ended it."""
    cause = _ROOT_CAUSE.search(text)
    return [f"rank {cause[1]} was killed by {_signal(int(cause[2]))}"] if cause else []


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _oom_kills() -> int:
    """How often the kernel has killed a process because memory ran out; 0 where it does not count."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _memory(before: int) -> str:
    return "; out of memory: the kernel killed a process meanwhile" if _oom_kills() > before else ""
