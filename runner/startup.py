"""What the rest takes for granted of the process: open standard streams, a home folder, the user's name."""

from __future__ import annotations

import os
import pwd
import sys
from contextlib import suppress


def complete_the_process() -> None:
    """Put /dev/null where a standard stream is closed, and names where the user has none."""
    _open_standard_streams()
    _name_the_user()


def _open_standard_streams() -> None:
    """Else the next file that is opened would get the number of standard output, and what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115, PTH123


def _name_the_user() -> None:
    """Containers often run as a number that no passwd file has: then, as Docker does, take / for the home."""
    with suppress(KeyError):
        pwd.getpwuid(os.getuid())
        return
    os.environ.setdefault("HOME", "/")
    os.environ.setdefault("LOGNAME", str(os.getuid()))


def print_error(message: str) -> None:
    """One line on standard error, or none where that cannot be written."""
    try:
        print(f"runner: {message}", file=sys.stderr)
    except OSError:
        _discard(2)


def discard_output() -> None:
    """Standard output cannot be written: Python shall not try once more at the end, and complain."""
    _discard(1)


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
