"""Requests to `runner.execute.bootstrap`, which serves them on the machine of a transport, one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from runner.execute import bootstrap
from runner.targets.transport.base import Channel, CommandFailed, ConnectionLost, Transport, whole_lines

_PROGRAM = Path(bootstrap.__file__)
_CALL_PATIENCE = 60.0  # seconds of silence from a request that is answered when it is done
_STREAM_PATIENCE = 8.0  # seconds of silence from a stream that sends something every `runner.execute.files.HEARTBEAT`

Feed = Callable[[IO[bytes]], None]


class Sessions:
    """Requests to a machine, in its `folder`; the process there that has answered one waits for the next.

    A request that is made while another one is being answered gets a process of its own.
    """

    def __init__(self, transport: Transport, python: str, folder: str) -> None:
        self._transport, self._python, self._folder = transport, python, folder
        self._idle: list[_Session] = []

    def call(self, request: Sequence[str], feed: Feed | None = None) -> bytes:
        """The whole answer; `feed` writes what the request needs. Raises CommandFailed, ConnectionLost, RecipeError."""
        return b"".join(self._answer(request, feed, _CALL_PATIENCE))

    def lines(self, request: Sequence[str]) -> Iterator[bytes]:
        """The answer, line by line as it comes. Raises as `call` does, ConnectionLost also for a short silence."""
        return whole_lines(self._answer(request, None, _STREAM_PATIENCE))

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        while self._idle:
            self._idle.pop().channel.close()
        self._transport.close()

    def _answer(self, request: Sequence[str], feed: Feed | None, patience: float) -> Iterator[bytes]:
        session = self._idle.pop() if self._idle else self._start()
        try:
            yield from session.answer(request, feed, patience)
        except ConnectionLost:
            self.close()
            raise
        finally:
            if session.is_idle:
                self._idle.append(session)
            else:
                session.channel.close()

    def _start(self) -> _Session:
        program = _PROGRAM.read_text(encoding="utf-8")
        command = [self._python, "-X", "utf8", "-c", program, "serve", self._folder]
        return _Session(self._transport.start(command))


class _Session:
    """A process that answers requests; `is_idle` unless one is unfinished."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.is_idle = channel, True
        self._received = b""

    def answer(self, request: Sequence[str], feed: Feed | None, patience: float) -> Iterator[bytes]:
        """The output of a request, part by part. Raises CommandFailed, ConnectionLost."""
        self.is_idle = False
        with suppress(BrokenPipeError):  # what was printed before tells why
            self.channel.write(json.dumps(request).encode() + b"\n")
            if feed:
                stream: Any = _Chunks(self.channel)
                feed(stream)
                self.channel.write(bootstrap.chunk(b""))
        while not (header := self._line(patience)).startswith(b"end "):
            yield self._exactly(int(header), patience)
        _, status, message = header.split(b" ", 2)
        self.is_idle = not (feed and int(status))  # then it may have left the rest unread
        if int(status):
            raise CommandFailed(int(status), message.decode(errors="replace"))

    def _line(self, patience: float) -> bytes:
        while b"\n" not in self._received:
            self._received += self.channel.read(patience)
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _exactly(self, size: int, patience: float) -> bytes:
        while len(self._received) < size:
            self._received += self.channel.read(patience)
        part, self._received = self._received[:size], self._received[size:]
        return part


class _Chunks:
    """A stream that is sent in chunks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> int:
        self._channel.write(bootstrap.chunk(data))
        return len(data)
