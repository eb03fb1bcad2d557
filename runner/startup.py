"""Completes the environment of the process: open standard streams, a home folder, a user name."""

from __future__ import annotations

import os
import pwd
import sys
from contextlib import suppress

_LONGEST_MESSAGE = 1000  # characters; a message may quote a file


def complete_the_process() -> None:
    """Open closed standard streams on /dev/null, and set HOME and LOGNAME for a user without a passwd entry."""
    _open_standard_streams()
    _name_the_user()


def _open_standard_streams() -> None:
    """Otherwise the next file to be opened would get the descriptor of standard output, and all that is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115, PTH123


def _name_the_user() -> None:
    """Containers often run as a user id without a passwd entry; like Docker, use / as its home."""
    with suppress(KeyError):
        pwd.getpwuid(os.getuid())
        return
    os.environ.setdefault("HOME", "/")
    os.environ.setdefault("LOGNAME", str(os.getuid()))


def print_error(message: str) -> None:
    """Print one line of bounded length on standard error; do nothing if it cannot be written."""
    line = " ".join(message[: 2 * _LONGEST_MESSAGE].splitlines())
    shown = line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
    try:
        print(f"runner: {shown}", file=sys.stderr)
    except OSError:
        _discard(2)


def discard_output() -> None:
    """Redirect a broken standard output to /dev/null, so that Python does not fail again when it flushes at exit."""
    _discard(1)


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
