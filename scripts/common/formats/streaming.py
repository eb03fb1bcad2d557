"""Copying more data than fits in memory: in tiles, with two threads, reporting progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common import events

TILE_BYTES = 1 << 20  # larger tiles are not faster, and what is being copied leaves the processor's cache
THREADS = 2  # one computes a checksum while the other waits for the disk

Job = TypeVar("Job")
Result = TypeVar("Result")


class ByteCount:
    """Progress in bytes of `total`, from several threads."""

    def __init__(self, total: int) -> None:
        self._done, self._total, self._lock = 0, total, threading.Lock()

    def add(self, count: int) -> None:
        """Add `count` bytes and report progress."""
        with self._lock:
            self._done += count
            events.progress(self._done, self._total, "byte")


def each(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """The results of `work` for all jobs, in order. Raises the first error."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, jobs))


def row_ranges(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of tiles of at most TILE_BYTES, but at least one row."""
    step = max(1, TILE_BYTES // row_bytes)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
