"""Commands on this machine, as a target runs them."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import pytest

from runner.targets.transport.base import CommandFailed, ConnectionLost
from runner.targets.transport.local import LocalChannel, LocalTransport


def python(code: str) -> LocalChannel:
    return LocalTransport().start([sys.executable, "-c", code])


def test_a_command_runs_in_the_home_folder_and_reads_what_it_is_sent() -> None:
    channel = python("import os, sys; sys.stdout.write(f'{os.getcwd()} {sys.stdin.readline()}')")
    channel.write(b"sent\n")
    assert channel.read(10).decode() == f"{Path.home()} sent\n"
    channel.close()


def test_a_command_that_fails_has_its_status_and_the_last_line_of_its_errors() -> None:
    with pytest.raises(CommandFailed, match="^the reason$") as failed:
        python("import sys; print('first', file=sys.stderr); sys.exit('the reason')").read(10)
    assert failed.value.status == 1
    with pytest.raises(CommandFailed, match="^exit status 7$"):
        python("exit(7)").read(10)


@pytest.mark.parametrize("code", ["pass", "import os; os.kill(os.getpid(), 9)"])
def test_a_command_that_ends_without_an_answer_tells_nothing_about_its_run(code: str) -> None:
    with pytest.raises(ConnectionLost, match="ended before it had answered"):
        python(code).read(10)


def test_a_missing_command_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-command: no such command") as failed:
        LocalTransport().start(["no-such-command"])
    assert failed.value.status == 127


def test_a_command_and_what_it_started_end_when_its_channel_is_closed() -> None:
    child = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    channel = python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    ended = os.pidfd_open(int(channel.read(10)))
    channel.close()
    assert select.select([ended], [], [], 10)[0]


def test_without_a_connection_nothing_is_forwarded_or_closed() -> None:
    transport = LocalTransport()
    with transport.forwarding(8000, 8000):
        transport.close()
