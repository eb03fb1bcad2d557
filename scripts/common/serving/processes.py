"""Processes that must not outlive the one that started them. Linux; elsewhere the kernel's help is missing.

A process group is not enough for that: SIGKILL to a server's main process leaves its engine processes alive, and
SIGKILL to a group's owner ends nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>


def exit_on_signals() -> None:
    """Exit with status 0 on SIGTERM and 130 on SIGINT, so that `finally` blocks run."""
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        signal.signal(number, lambda *_, status=status: sys.exit(status))


def end_with_parent() -> None:
    """For Popen(preexec_fn=): have the kernel send the child SIGTERM when the thread that started it ends."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def search_path(python: str) -> str:
    """PATH for a Python's processes, beginning with its own folder: Neuron's tools are called by their bare names.

    The folder where it is named, not where a link leads: an environment's `python` often links to /usr/bin.
    """
    found = os.environ.get("PATH", os.defpath)
    return f"{Path(python).absolute().parent}{os.pathsep}{found}" if os.sep in python else found


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that `end_children` finds it."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ask `process` to end, wait `patience` seconds, then kill whatever this process has for children, adopted or not.

    No other child of this process may be wanted any more.
    """
    with suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(patience)
    while children := _children(os.getpid()):
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # the kernel hands each one's children over when it is gone
                os.waitpid(pid, 0)


def _children(pid: int) -> list[int]:
    """Children of every thread of a process."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in listing.read_text(encoding="utf-8").split()]
    return found
