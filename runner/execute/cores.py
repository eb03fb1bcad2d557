"""Leases of NeuronCores on this machine: no two runs compute on the same core. Standard library alone.

A lease is a locked file for each core. A process that inherits the file descriptors holds the lease too, and the kernel
ends it with the last holder, however that dies. Each file names its holder. All are in one folder of the machine,
whichever store or checkout a run comes from.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.execute import files

VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"  # environment variable: `4`, `4-7` or `4,5,6,7`
ROOT_ADDRESS = "NEURON_RT_ROOT_COMM_ID"  # environment variable: HOST:PORT where the collectives of one run meet
_POLL = 0.5  # seconds


class NoFreeCores(Exception):
    """Other runs hold the cores; the text names them."""


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

    If no block is free, calls `on_wait` with the holders' names and waits; without `on_wait` raises NoFreeCores.
    """
    taken = _take(count, total, holder)
    if taken is None:
        if on_wait is None:
            raise NoFreeCores(holders(total))
        on_wait(holders(total))
        while taken is None:
            time.sleep(_POLL)
            taken = _take(count, total, holder)
    try:
        yield taken
    finally:
        for descriptor in taken.descriptors:
            os.close(descriptor)


def environment(visible: str, first: int, planned: Mapping[str, str]) -> dict[str, str]:
    """The variables that restrict a step to these cores, with a port for its collectives that no other block uses."""
    host, _, port = planned.get(ROOT_ADDRESS, "").rpartition(":")
    address = {ROOT_ADDRESS: f"{host}:{int(port) + first}"} if host else {}
    return {VISIBLE_CORES: visible, **address}


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
                files.name_holder(descriptor, holder)
            return Lease(first, count, descriptors)
    return None


def _lock_all(cores: range) -> tuple[int, ...]:
    """The descriptors of all cores' locked files; empty, with none locked, if one of them is held by another."""
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
    """The descriptor of the core's locked file; None if another process holds it."""
    folder().mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder().chmod(0o1777)
    descriptor = files.open_lock(_file(core))
    if files.try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None
