"""How the machine that runs belong to is reached: a command there, its input and output, and what can break."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol


class ConnectionLost(Exception):
    """The connection broke, or cannot be made now, which tells nothing about what runs on the other side."""


class CommandFailed(Exception):
    """A command on the other machine failed; the text is the last line of its error output."""

    def __init__(self, status: int, output: str):
        super().__init__(output or f"exit status {status}")
        self.status = status


class Channel(Protocol):
    """A running command: its standard input and output."""

    def write(self, data: bytes) -> object:
        """Write to the command. Raises OSError where it has ended, ConnectionLost."""
        ...

    def read(self, patience: float) -> bytes:
        """What the command prints next.

        Raises CommandFailed where it failed, ConnectionLost where it ended otherwise, or is silent for that many
        seconds.
        """
        ...

    def close(self) -> None:
        """End the command."""
        ...


class Transport(Protocol):
    """Starts commands on a machine, in the user's home folder; `host` is what people call the machine."""

    host: str

    def start(self, command: Sequence[str]) -> Channel:
        """Start a command. Raises ConnectionLost, RecipeError."""
        ...

    def forwarding(self, local_port: int, port: int, host: str = "127.0.0.1") -> AbstractContextManager[None]:
        """Forward a port of this machine to a port of the other one, or of a host that the other one reaches."""
        ...

    def close(self) -> None:
        """Close the connection; the next command makes a new one."""
        ...


def whole_lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of output that comes in parts, without one that is cut off at the end."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines


def last_line(output: bytes) -> str:
    """The last line of what a command printed, which tells why it failed; empty if it printed nothing."""
    return next(reversed(output.decode(errors="replace").strip().splitlines()), "")
