"""`runner ui` as it is typed."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.runner.command_line import runner

START = [sys.executable, "-m", "runner", "ui", "--no-browser"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_ends_quietly(tmp_path: Path, end: signal.Signals) -> None:
    command = [*START, "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
        assert address
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(address[0]) as page:
            assert "<h1>Runs</h1>" in page.read().decode()
        process.send_signal(end)
        assert process.wait(30) == 130
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_a_port_in_use_is_bad_input(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = runner(tmp_path, "ui", "--no-browser", "--port", port)
    advice = "choose another, or leave it out for any free one"
    assert (done.returncode, done.stderr) == (2, f"runner: --port: {port}: Address already in use; {advice}\n")


def test_what_is_no_port_is_bad_input(tmp_path: Path) -> None:
    done = runner(tmp_path, "ui", "--no-browser", "--port", "99999")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
