"""File locks, files that appear whole, and files that are read while they grow. Standard library alone.

A lock is flock(2) on an open file: the kernel releases it with the last process that has the file open, however that
process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

HEARTBEAT = 2.0  # seconds without a line after which `tail` yields None
_POLL = 0.1  # seconds; a person notices no finer


def lock(file: int | IO[bytes]) -> None:
    """Lock an open file for this process alone; waits for another holder."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: int | IO[bytes]) -> bool:
    """Lock an open file for this process alone; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_holder(path: Path) -> str | None:
    """The text of a lock file that some process has locked; None if it is unlocked or missing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().decode()
    return None


def wait_until_unlocked(path: Path) -> None:
    """Return once no process holds the lock file; at once if it is missing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def write_atomic(path: Path, text: str) -> Path:
    """Write a file that others see whole or not at all, even after a crash; returns `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return path


def tail(path: Path, offset: int, is_growing: Callable[[], bool]) -> Iterator[bytes | None]:
    """The whole lines of a file from byte `offset` on, for as long as it grows; None now and then between them."""
    partial, ended, last_yield = b"", False, time.monotonic()
    with path.open("rb") as stream:
        stream.seek(offset)
        while not ended:
            ended = not is_growing()  # asked before reading, so that the last lines are not missed
            *lines, partial = (partial + stream.read()).split(b"\n")
            yield from lines
            if lines:
                last_yield = time.monotonic()
            elif time.monotonic() - last_yield > HEARTBEAT:
                last_yield = time.monotonic()
                yield None
            if not ended:
                time.sleep(_POLL)
