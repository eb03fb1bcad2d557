"""How an executor is asked to end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execute import signals
from runner.execute.run_folder import CANCELLED, JOB, SECRETS
from tests.runner.execute.small_plans import WRITE, events, start, states, step


def test_an_interrupted_run_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    wait = "import sys, time; print('at work', flush=True); time.sleep(60)"
    process = start(run, {"store": str(store), "steps": [step(store, "convert", WRITE), step(store, "train", wait)]})
    while not (run / "logs" / "train.log").exists() or not (run / "logs" / "train.log").read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 75
    plan = {"store": str(store), "steps": [step(store, "convert", WRITE), step(store, "train", WRITE)]}
    assert start(run, plan).wait() == 0
    assert [one["state"] for one in events(run) if one["event"] == "run"] == [
        "started", "interrupted", "started", "finished",
    ]  # fmt: skip
    assert ("convert", "cached") in states(run)


@pytest.mark.parametrize(("cancelled", "kept"), [(False, True), (True, False)])
def test_a_job_that_is_requeued_keeps_its_token_and_one_that_is_cancelled_does_not(
    tmp_path: Path, cancelled: bool, kept: bool
) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    run.mkdir()
    (run / JOB).write_text("{}")
    (run / SECRETS).write_text('{"HF_TOKEN": "hf_secret"}')
    wait = "import sys, time; print('at work', flush=True); time.sleep(60)"
    process = start(run, {"store": str(store), "steps": [step(store, "train", wait)]})
    while not (run / "logs" / "train.log").exists() or not (run / "logs" / "train.log").read_text():
        assert process.poll() is None
    if cancelled:
        (run / CANCELLED).touch()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    assert events(run)[-1]["state"] == "stopped"
    assert (run / SECRETS).exists() == kept


@pytest.mark.parametrize(
    ("number", "exception"), [(signal.SIGTERM, signals.Stopped), (signal.SIGUSR1, signals.Interrupted)]
)
def test_a_signal_is_an_exception_and_a_second_one_is_ignored(number: int, exception: type[Exception]) -> None:
    before = signal.getsignal(number)
    with signals.raised():
        with pytest.raises(exception):
            signal.raise_signal(number)
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_ends_a_wait_though_another_thread_received_it() -> None:
    code = """
import os, signal, subprocess, threading
from runner.execute import signals

def pass_on(stream):
    stream.readline()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

once_waited_for = 'until grep -q "State:.S" /proc/$PPID/status; do :; done; echo; exec sleep 60'
try:
    with signals.raised(), subprocess.Popen(["sh", "-c", once_waited_for], stdout=subprocess.PIPE) as child:
        try:
            threading.Thread(target=pass_on, args=(child.stdout,), daemon=True).start()
            os.wait4(child.pid, 0)
        finally:
            child.kill()
except signals.Stopped:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30)
    assert done.stdout == b"stopped\n"


def test_a_deferred_signal_is_handled_at_the_end() -> None:
    done = []
    with signals.raised(), pytest.raises(signals.Stopped), signals.deferred():
        signal.raise_signal(signal.SIGTERM)
        done.append("started")
    assert done == ["started"]


@pytest.mark.parametrize(("message", "stops"), [(b"", True), (b"detach", False)])
def test_the_end_of_the_lifeline_stops_the_process(message: bytes, stops: bool) -> None:
    code = (
        "import sys, time; from runner.execute import signals; signals.stop_at_end_of(0); "
        "print('ready', flush=True); time.sleep(1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    process.communicate(message)
    assert process.returncode == (-signal.SIGTERM if stops else 0)
