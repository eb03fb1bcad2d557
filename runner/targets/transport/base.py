"""How the machine that runs belong to is reached: commands, their output, and what can break."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Protocol


class ConnectionLost(Exception):
    """The connection broke, or cannot be made now, which tells nothing about what runs on the other side."""


class CommandFailed(Exception):
    """A command on the other machine failed; the text is the last line of its error output."""

    def __init__(self, status: int, output: str):
        super().__init__(output or f"exit status {status}")
        self.status = status


class Transport(Protocol):
    """Runs commands on a machine, in the user's home folder; `host` is what people call the machine."""

    host: str

    def call(self, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None = None) -> bytes:
        """Output of a command; `feed` writes its standard input. Raises CommandFailed, ConnectionLost, RecipeError."""
        ...

    def lines(self, command: Sequence[str]) -> Iterator[bytes]:
        """Output of a command, line by line as it comes. Raises as `call` does."""
        ...

    def forwarding(self, local_port: int, port: int, host: str = "127.0.0.1") -> AbstractContextManager[None]:
        """Forward a port of this machine to a port of the other one, or of a host that the other one reaches."""
        ...

    def close(self) -> None:
        """Close the connection; the next command makes a new one."""
        ...
