"""Commands on this machine, for a scheduler that is reached from here."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from runner.targets.transport.base import CommandFailed, ConnectionLost, last_line

_CHUNK = 2**16


class LocalTransport:
    """This machine, as a `runner.targets.transport.base.Transport`."""

    host = "this machine"

    def start(self, command: Sequence[str]) -> LocalChannel:
        return LocalChannel(command)

    def forwarding(self, local_port: int, port: int, host: str = "127.0.0.1") -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


class LocalChannel:
    """A child process, as a `runner.targets.transport.base.Channel`; closing it also ends what the process started."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                command, cwd=Path.home(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the runner, which asks first
            )  # fmt: skip
        except FileNotFoundError as error:
            raise CommandFailed(127, f"{error.filename}: no such command") from None

    def write(self, data: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self, patience: float) -> bytes:
        assert self._process.stdout and self._process.stderr
        output = os.read(self._process.stdout.fileno(), _CHUNK)
        if not output:
            errors = self._process.stderr.read()
            if self._process.wait() > 0:
                raise CommandFailed(self._process.returncode, last_line(errors))
            raise ConnectionLost("it ended before it had answered")  # or was killed
        return output

    def close(self) -> None:
        with self._process:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
