"""Runs that belong to this machine: started, followed, detached and ended, with real executors."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.execute import agent, executor, signals
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

WAIT = """
import pathlib, sys, time
print(sys.argv[1].rpartition("/")[2], "at work", flush=True)
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.01)
"""


def a_run(folder: Path, cores: dict | None = None, ends: dict[str, str] | None = None) -> Run:
    """A recorded run whose stages (by default train) end when the file of that name is in the folder."""
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store"])
    steps = []
    for stage, end in (ends or {"train": "end"}).items():
        output = folder / "store" / "partial" / f"{stage}-1"
        argv = (sys.executable, "-c", WAIT, str(output), str(folder / end))
        steps.append(Step(stage, stage, f"{stage}-1", argv, {}, True, False, cores=cores))
    return Run(create.create(composed, Plan("quickstart", str(folder / "store"), tuple(steps))))


def executor_of(run: Run) -> int:
    return next(event["pid"] for event in run.events() if event["event"] == "run")


def ends(pid: int) -> bool:
    try:
        return bool(select.select([os.pidfd_open(pid)], [], [], 20)[0])
    except ProcessLookupError:
        return True


def runner(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, capture_output=True, text=True)


def test_who_follows_the_log_reads_one_stage_after_the_other(tmp_path: Path) -> None:
    run = a_run(tmp_path, ends={"convert": "converted", "train": "trained"})
    targets.of_run(run).start(run, attached=False)
    words = [sys.executable, "-m", "runner", "logs", "-f", run.name]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as logs:
        assert logs.stdout and logs.stderr
        assert logs.stdout.readline() == "convert-1 at work\n"
        (tmp_path / "converted").touch()
        assert logs.stdout.readline() == "train-1 at work\n"
        (tmp_path / "trained").touch()
        assert (logs.wait(), logs.stderr.read().split()) == (0, ["==>", "convert", "<==", "==>", "train", "<=="])


def test_a_detached_run_is_followed_by_others_and_finished(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    target = targets.of_run(run)
    target.start(run, attached=False)
    assert (target.state(run), run.in_progress) == ("running", True)
    assert run.name in runner(tmp_path, "status").stdout
    stream = target.follow(run)
    assert json.loads(next(stream))["state"] == "started"
    (tmp_path / "end").touch()
    assert json.loads(list(stream)[-1]) | {"time": 0} == {"time": 0, "event": "run", "state": "finished", "status": 0}
    assert "at work" in runner(tmp_path, "logs", "last").stdout
    assert runner(tmp_path, "attach", "last").returncode == 0
    assert "No runs are in progress" in runner(tmp_path, "status").stdout


@pytest.mark.parametrize("detach", [False, True])
def test_an_attached_run_ends_with_its_runner_unless_it_was_detached(tmp_path: Path, detach: bool) -> None:
    run = a_run(tmp_path)
    words = f"""
from pathlib import Path
from runner import targets
from runner.record.runs import Run
run = Run(Path({str(run.folder)!r}))
target = targets.of_run(run)
target.start(run, attached=True)
{"target.detach()" if detach else ""}
import os; os.kill(os.getpid(), 9)
"""
    died = subprocess.run([sys.executable, "-c", words], check=False)
    assert died.returncode == -signal.SIGKILL
    pid = executor_of(run)
    if not detach:
        assert ends(pid)
        assert run.state == "stopped"
        return
    assert run.state == "running"
    assert runner(tmp_path, "cancel", "last").returncode == 0
    assert ends(pid)
    assert run.state == "stopped"


def test_cancel_waits_until_the_step_has_ended(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    agent.start(run.folder)
    [step] = Path(f"/proc/{executor_of(run)}/task/{executor_of(run)}/children").read_text().split() or ["0"]
    assert agent.cancel(run.folder) == "stopped"
    assert step == "0" or ends(int(step))
    assert agent.cancel(run.folder) == "stopped"


def test_a_run_that_is_stopped_as_soon_as_it_has_started_says_so(tmp_path: Path, monkeypatch) -> None:
    def stopped(folder: Path) -> dict[str, str]:
        raise signals.Stopped

    monkeypatch.setattr(executor, "_load_secrets", stopped)
    run = a_run(tmp_path)
    assert executor.execute(run.plan, run.folder) == 130
    assert run.state == "stopped"


def test_a_run_that_may_not_wait_for_cores_is_refused_with_their_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "leases"))
    first = a_run(tmp_path / "one", cores={"count": 2, "of": 2, "wait": True})
    agent.start(first.folder)
    stream = agent.follow(first.folder)
    while not list((tmp_path / "one").glob("runs/*/logs/train.log")):
        next(stream)
    second = a_run(tmp_path / "two", cores={"count": 2, "of": 2, "wait": False})
    agent.start(second.folder).wait()
    assert second.state == "failed"
    assert f"0-1: {first.name}" in second.stages()["train"]["reason"]
    waiting = a_run(tmp_path / "three", cores={"count": 1, "of": 2, "wait": True})
    executor = agent.start(waiting.folder)
    for line in agent.follow(waiting.folder):
        if line and json.loads(line).get("state") == "waiting":
            assert first.name in line.decode()
            (tmp_path / "one" / "end").touch()
            (tmp_path / "three" / "end").touch()
    assert executor.wait() == 0


def test_a_step_sees_its_cores_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_CORES", str(tmp_path / "leases"))
    run = a_run(tmp_path, cores={"count": 4, "of": 8, "wait": True})
    plan = json.loads((run.folder / "plan.json").read_text())
    plan["steps"][0]["argv"][2] = "import os; print(os.environ['NEURON_RT_VISIBLE_CORES'])"
    (run.folder / "plan.json").write_text(json.dumps(plan))
    assert agent.start(run.folder).wait() == 0
    assert (run.folder / "logs" / "train.log").read_text() == "0-3\n"


@pytest.mark.parametrize(("answer", "status", "state"), [(b"d\n", 0, "running"), (b"c\n", 130, "stopped")])
def test_ctrl_c_in_a_terminal_asks(tmp_path: Path, answer: bytes, status: int, state: str) -> None:
    run = a_run(tmp_path)
    agent.start(run.folder)
    terminal, inner = pty.openpty()
    follower = subprocess.Popen(
        [sys.executable, "-m", "runner", "attach", "last"],
        cwd=tmp_path, stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(inner)
    read_until(terminal, b"train")
    os.write(terminal, b"\x03")
    read_until(terminal, b"cancel it")
    os.write(terminal, answer)
    assert follower.wait(20) == status
    assert run.state == state
    agent.cancel(run.folder)


def read_until(terminal: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 4096)
