"""Commands on this machine, for a scheduler that is reached from here."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from runner.targets.transport.base import CommandFailed


class LocalTransport:
    """This machine, as a `runner.targets.transport.base.Transport`."""

    host = "this machine"

    def call(self, command: Sequence[str], feed: Callable[[IO[bytes]], None] | None = None) -> bytes:
        with _started(command, subprocess.PIPE) as process:
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # its error output tells more
                if feed:
                    feed(process.stdin)
            output, errors = process.communicate()
            _check(process, errors)
            return output

    def lines(self, command: Sequence[str]) -> Iterator[bytes]:
        with _started(command, subprocess.DEVNULL) as process:
            assert process.stdout and process.stderr
            try:
                yield from (line.rstrip(b"\n") for line in process.stdout)
                errors = process.stderr.read()
            except GeneratorExit:
                process.terminate()
                raise
        _check(process, errors)

    def forwarding(self, local_port: int, port: int, host: str = "127.0.0.1") -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


def _started(command: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, cwd=Path.home(), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the runner, which asks first
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CommandFailed(127, f"{error.filename}: no such command") from None


def _check(process: subprocess.Popen[bytes], errors: bytes) -> None:
    if process.wait():
        lines = errors.decode(errors="replace").strip().splitlines()
        raise CommandFailed(process.returncode, lines[-1] if lines else "")
