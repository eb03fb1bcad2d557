"""Limits of this process for work that others have written. Standard library alone."""

from __future__ import annotations

import math
import resource
import time


def limit_cpu_seconds(seconds: int) -> None:
    """From now on; SIGXCPU ends the process after that."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)


def limit_memory(size: int) -> None:
    """The address space, in bytes; what needs more raises MemoryError."""
    _limit(resource.RLIMIT_AS, size)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
