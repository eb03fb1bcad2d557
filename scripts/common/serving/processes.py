"""Child processes that must not outlive their parent. Only Linux supports this; elsewhere the functions do less.

A process group is not enough: SIGKILL to a server's main process leaves its engine processes running, and SIGKILL to
the owner of a group terminates no other process.
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
    """PATH for processes of `python`, starting with its folder: Neuron's tools are called by their bare names.

    Links are not resolved: the `python` of an environment often links to /usr/bin.
    """
    path = os.environ.get("PATH", os.defpath)
    return f"{Path(python).absolute().parent}{os.pathsep}{path}" if os.sep in python else path


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that `end_children` finds them."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children(process: subprocess.Popen[bytes], patience: float) -> None:
    """Send SIGTERM to `process`, wait `patience` seconds, then kill all children of this process, also adopted ones."""
    with suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(patience)
    while children := _children(os.getpid()):
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # then the kernel makes its children ours
                os.waitpid(pid, 0)


def _children(pid: int) -> list[int]:
    """The children of all threads of a process."""
    children: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, listing.read_text(encoding="utf-8").split())
    return children
