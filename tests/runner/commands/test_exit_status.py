"""The exit status of `runner run`, and what it says on standard error, as a script that calls it sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import runner
from fake_machine import command

# An environment's Python whose programs do what this says; asked for its packages, it answers as the real one.
STAGE = f"""
import os, signal
if sys.argv[1] == "-c":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""
FAILS = STAGE + "sys.exit('no more memory')"
CACHED = ["evaluate=none", "serve=none"]


@pytest.fixture
def failing(tmp_path: Path) -> str:
    return f"sdk.train_python={command(tmp_path / 'python', FAILS)}"


def test_0_with_the_results_alone_if_quiet(tmp_path: Path) -> None:
    ready = STAGE + "pathlib = __import__('pathlib'); pathlib.Path(sys.argv[-1], 'made').touch()"
    python = f"sdk.train_python={command(tmp_path / 'python', ready)}"
    done = runner(tmp_path, "run", "quickstart", "--quiet", python, *CACHED)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["run"]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_1_with_the_reason_and_what_to_look_at(tmp_path: Path, failing: str, quiet: list[str]) -> None:
    done = runner(tmp_path, "run", "quickstart", failing, *quiet)
    [run] = (tmp_path / "runs").glob("*-quickstart")
    assert done.returncode == 1
    why, what_next = done.stderr.splitlines()
    assert why.startswith("runner: fetch: no more memory (exit status 1")
    assert what_next == f"runner: see runner logs {run.name} --stage fetch"
    assert runner(tmp_path, "logs", run.name, "--stage", "fetch").stdout == "no more memory\n"


def test_1_for_a_sweep_with_a_failed_trial(tmp_path: Path, failing: str) -> None:
    done = runner(tmp_path, "run", "quickstart", "-m", "--quiet", failing, "train.seed=1,2")
    [sweep] = (tmp_path / "runs" / "sweeps").glob("quickstart-*")
    assert done.returncode == 1
    for number, line in enumerate(done.stderr.splitlines()):
        assert line.startswith(f"runner: trial {number}: failed: fetch: no more memory (exit status 1")
    assert number == 1
    assert "trial 0" not in done.stdout and f"sweep    {sweep}" in done.stdout


def test_2_for_what_cannot_work(tmp_path: Path) -> None:
    done = runner(tmp_path, "run", "quickstart", "--quiet", "tp_sise=4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "runner: command line: tp_sise=4: no such key; did you mean tp_size?\n"


def test_130_after_ctrl_c(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    waits = f"{STAGE}open({str(begun)!r}, 'w').close()\nsignal.pause()"
    python = f"sdk.train_python={command(tmp_path / 'python', waits)}"
    argv = [sys.executable, "-m", "runner", "run", "quickstart", python]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        begun.read_bytes()  # returns when the program has begun
        process.send_signal(signal.SIGINT)
        assert process.stdout
        assert "Run the same command to resume" in process.stdout.read()
    assert process.returncode == 130
