"""Leases of NeuronCores on this machine: no two runs compute on the same core. Standard library alone.

A lease is a lock on one file a core, held by a file descriptor; a process that inherits the descriptor holds the
lease for as long as it lives, and the kernel ends it with the last holder, however that dies. The files say who
holds them. They lie in one folder of the machine, whichever store or checkout a run comes from.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LOOK_EVERY = 0.5  # seconds


class NoFreeCores(Exception):
    """Others hold the cores."""


@dataclass(frozen=True)
class Lease:
    """Adjacent cores `first` to `first + count - 1`, held by the open `descriptors`."""

    first: int
    count: int
    descriptors: tuple[int, ...]

    @property
    def visible(self) -> str:
        """As NEURON_RT_VISIBLE_CORES takes it."""
        return str(self.first) if self.count == 1 else f"{self.first}-{self.first + self.count - 1}"


def folder() -> Path:
    """Where the machine's leases are: one place for all users of it."""
    return Path(os.environ.get("RUNNER_CORES") or Path(tempfile.gettempdir()) / "neuron-core-leases")


@contextlib.contextmanager
def lease(count: int, total: int, holder: str, on_wait: Callable[[str], None] | None) -> Iterator[Lease]:
    """Hold `count` of the machine's `total` cores; a block begins at a multiple of its size, so that blocks pack.

    Where none is free, call `on_wait` with the text of the holders and wait; without it raise NoFreeCores.
    """
    found = _take(count, total, holder)
    if found is None:
        if on_wait is None:
            raise NoFreeCores(holders(total))
        on_wait(holders(total))
        while found is None:
            time.sleep(_LOOK_EVERY)
            found = _take(count, total, holder)
    try:
        yield found
    finally:
        for descriptor in found.descriptors:
            os.close(descriptor)


def holders(total: int) -> str:
    """Who holds which of `total` cores: `0-31: run a; 32-63: run b`."""
    names: dict[str, list[int]] = {}
    for core in range(total):
        descriptor = _lock(core)
        if descriptor is None:
            names.setdefault(_file(core).read_text(encoding="utf-8"), []).append(core)
        else:
            os.close(descriptor)
    return "; ".join(f"{cores[0]}-{cores[-1]}: {name}" for name, cores in names.items())


def _take(count: int, total: int, holder: str) -> Lease | None:
    for first in range(0, total - count + 1, count):
        descriptors = _lock_all(range(first, first + count))
        if descriptors:
            for descriptor in descriptors:
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, holder.encode(), 0)
            return Lease(first, count, descriptors)
    return None


def _lock_all(cores: range) -> tuple[int, ...]:
    """Locks of all `cores`, or of none."""
    held: list[int] = []
    for core in cores:
        descriptor = _lock(core)
        if descriptor is None:
            for other in held:
                os.close(other)
            return ()
        held.append(descriptor)
    return tuple(held)


def _file(core: int) -> Path:
    return folder() / f"core-{core:03d}"


def _lock(core: int) -> int | None:
    folder().mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder().chmod(0o1777)
    descriptor = os.open(_file(core), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
