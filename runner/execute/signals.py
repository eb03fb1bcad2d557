"""How an executor is asked to end: by a signal, or by the end of its standard input. Standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Stopped(Exception):
    """A signal asked the run to end."""


class Interrupted(Exception):
    """SIGUSR1: the scheduler's time limit is near; the run will be started again."""


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise Stopped or Interrupted in the main thread when a signal arrives."""
    previous = {number: signal.signal(number, _raise) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean-up short
    raise Interrupted if number == signal.SIGUSR1 else Stopped


def stop_at_end_of(lifeline: int) -> None:
    """Send this process SIGTERM when the pipe `lifeline` (a file descriptor) closes, unless it said `detach` before."""

    def watch() -> None:
        with open(lifeline, "rb", buffering=0) as stream:  # noqa: PTH123  # a descriptor
            received = stream.read()
        if not received.startswith(b"detach"):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
