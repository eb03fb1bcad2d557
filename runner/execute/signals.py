"""How an executor is asked to end: by a signal, or by the end of its standard input. Standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_AGAIN = 1.0  # seconds between the interruptions of a wait


class Stopped(Exception):
    """A signal asked the run to end."""


class Interrupted(Exception):
    """SIGUSR1: the scheduler's time limit is near; the run will be started again."""


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise Stopped or Interrupted in the main thread when a signal arrives.

    Python handles a signal between two of its instructions. One that arrives just before the main thread waits in a
    system call, or that the kernel delivers to another thread, would not be handled until the wait ends; therefore a
    timer interrupts it now and then.
    """
    with _handling({**dict.fromkeys(_HANDLED, _raise), signal.SIGALRM: lambda *_: None}):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """In the main thread, handle the signals that arrive within this context at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    with _handling(dict.fromkeys(_HANDLED, lambda number, frame: arrived.append(number))):
        yield
    for number in arrived:
        signal.raise_signal(number)


@contextlib.contextmanager
def _handling(handlers: Mapping[int, Callable[[int, Any], None]]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
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
