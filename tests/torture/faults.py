"""The faults that shim.c can cause in a process, and the memory in which it is told which one."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

_SHIM = Path(__file__).with_name("shim.c")


class Fault(IntEnum):
    """What happens at the N-th call that changes files. The numbers are those of shim.c."""

    none = 0
    kill_before = 1
    kill_within = 2  # of a write: half of it is done
    kill_after = 3
    kill_all = 4  # every process of the command at once, as when the machine fails
    io_error = 5  # once
    disk_full = 6  # from then on
    terminate = 7
    interrupt = 8
    clock = 9  # of the day, set back by a day


class _State(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("fault", "at", "count", "fired", "harness")),
        ("role", ctypes.c_char * 32),
        ("root", ctypes.c_char * 1024),
        ("what", ctypes.c_char * 2048),
    ]  # fmt: skip


class Shim:
    """The shim in this process, and in all that it starts. Role and root say which calls count."""

    def __init__(self, library: str, state: str) -> None:
        self._library = ctypes.CDLL(library)
        with Path(state).open("r+b") as file:
            self._state = _State.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_State)))
        self._state.harness = os.getpid()
        self.environment = f"TORTURE_STATE={state}"

    def arm(self, fault: Fault, at: int, role: str, root: Path) -> None:
        """Cause a fault at a call, counted from 1, of the processes of a role, to a file below a folder."""
        self._state.count = self._state.fired = 0
        self._state.fault, self._state.at, self._state.what = fault, at, b""
        self._state.root, self._state.role = os.fsencode(root), role.encode()

    def disarm(self) -> None:
        """Disturb no more."""
        self._state.role = b""
        self._state.fault = Fault.none

    def begin(self, role: str) -> None:
        """Give this process, which was forked, its role."""
        self._library.torture_role(role.encode())

    @property
    def count(self) -> int:
        """The calls so far."""
        return self._state.count

    @property
    def fired(self) -> str:
        """The call that was disturbed; empty if it was not reached."""
        return self._state.what.decode(errors="replace")

    def processes(self) -> list[int]:
        """The living processes that were started below this one."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [pid for pid in pids if pid != os.getpid() and self._has_shim(pid)]

    def _has_shim(self, pid: int) -> bool:
        try:
            return self.environment.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            return False


def preloaded(scratch: Path) -> Shim:
    """Begin this program again with the shim, unless it has it already. Raises OSError, CalledProcessError."""
    library, state = scratch / "shim.so", scratch / "state"
    if os.environ.get("LD_PRELOAD") != str(library):
        subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, _SHIM, "-ldl"], check=True)
        state.write_bytes(bytes(ctypes.sizeof(_State)))
        os.environ.update(LD_PRELOAD=str(library), TORTURE_STATE=str(state), TORTURE_SCRATCH=str(scratch))
        os.execv(sys.executable, sys.orig_argv)
    return Shim(str(library), str(state))
