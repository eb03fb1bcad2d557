"""Commands on this machine, as a target runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runner.targets.transport.base import CommandFailed
from runner.targets.transport.local import LocalTransport


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_runs_in_the_home_folder_and_reads_what_it_is_fed() -> None:
    command = python("import os, sys; print(os.getcwd(), sys.stdin.read())")
    output = LocalTransport().call(command, lambda stream: stream.write(b"fed") and None)
    assert output.decode() == f"{Path.home()} fed\n"


def test_a_command_that_fails_has_its_status_and_the_last_line_of_its_errors() -> None:
    with pytest.raises(CommandFailed, match="^the reason$") as failed:
        LocalTransport().call(python("import sys; print('first', file=sys.stderr); sys.exit('the reason')"))
    assert failed.value.status == 1
    with pytest.raises(CommandFailed, match="^exit status 7$"):
        list(LocalTransport().lines(python("exit(7)")))


def test_a_command_that_does_not_read_its_input_tells_its_own_error() -> None:
    feed = lambda stream: [stream.write(b"x" * 2**20) for _ in range(4)] and None  # noqa: E731
    with pytest.raises(CommandFailed, match="^no$"):
        LocalTransport().call(python("exit('no')"), feed)


def test_a_missing_command_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-command: no such command") as failed:
        LocalTransport().call(["no-such-command"])
    assert failed.value.status == 127


def test_lines_come_as_they_are_written_and_the_command_ends_when_nobody_reads_on() -> None:
    """The command waits for a signal after its first line: a transport that collected its output would hang."""
    lines = LocalTransport().lines(python("import signal; print('one', flush=True); signal.pause()"))
    assert next(lines) == b"one"
    lines.close()  # type: ignore[attr-defined]


def test_without_a_connection_nothing_is_forwarded_or_closed() -> None:
    transport = LocalTransport()
    with transport.forwarding(8000, 8000):
        transport.close()
