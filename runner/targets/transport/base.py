"""The way to the machine that a far run belongs to: commands, their output, and what can break in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import IO, Protocol


class LinkLost(Exception):
    """The connection broke, or cannot be made just now. It says nothing of what runs there."""


class CommandFailed(Exception):
    """A command over there ended with another exit status than 0; the text is what it said."""

    def __init__(self, status: int, said: str):
        super().__init__(said or f"exit status {status}")
        self.status = status


class Wire(Protocol):
    """`host` is what people call the machine. Commands start in the home folder there."""

    host: str

    def call(self, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None = None) -> bytes:
        """What a command prints; `feed` writes its standard input. Raises CommandFailed, LinkLost, RecipeError."""
        ...

    def lines(self, command: Sequence[str]) -> Iterator[bytes]:
        """What a command prints, line by line as it comes. Raises as `call` does."""
        ...

    def forwarding(self, here: int, there: int) -> AbstractContextManager[None]:
        """Have the port `here` of this machine lead to the port `there` of the other."""
        ...

    def close(self) -> None:
        """Give the connection up; the next command makes a new one."""
        ...
