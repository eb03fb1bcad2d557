"""The command of a step: its environment, its end, and the reason when it fails."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.execute import signals
from runner.execute.executor import execute
from runner.execute.process import StepFailed, run_command
from runner.plan.model import Step
from runner.plan.text import command_line
from tests.runner.execute.small_plans import WRITE, events, start, step

CALLS_A_TOOL = "import subprocess; subprocess.run(['libneuronpjrt-path'], check=True)"


@pytest.mark.parametrize("users", [None, "7"])
def test_several_processes_share_the_cores_unless_the_user_says_otherwise(tmp_path, monkeypatch, users) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if users:
        monkeypatch.setenv("OMP_NUM_THREADS", users)
    code = (
        "import os, pathlib, sys; "
        "pathlib.Path(sys.argv[1], 'made').write_text(os.environ.get('OMP_NUM_THREADS', ''), encoding='utf-8')"
    )
    cores = len(os.sched_getaffinity(0))
    for processes, threads in ((1, ""), (2, str(max(1, cores // 2))), (10 * cores, "1")):
        one = {**step(tmp_path / "store", "train", code, key=f"train-{processes}"), "processes": processes}
        assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / f"run-{processes}") == 0
        made = tmp_path / f"run-{processes}" / "artifacts" / "train" / "made"
        assert made.read_text() == (users or threads)


@pytest.mark.parametrize(("users", "spins"), [(None, "1000"), ("ACTIVE", "")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(tmp_path, monkeypatch, users, spins) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if users:
        monkeypatch.setenv("OMP_WAIT_POLICY", users)
    code = (
        "import os, pathlib, sys; "
        "pathlib.Path(sys.argv[1], 'made').write_text(os.environ.get('GOMP_SPINCOUNT', ''), encoding='utf-8')"
    )
    one = step(tmp_path / "store", "evaluate", code, key="evaluate-1")
    assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "artifacts" / "evaluate" / "made").read_text() == spins


def waiting_step(store: Path, fifo: Path) -> dict:
    """A step that tells its pid through a named pipe and then waits for ever."""
    code = f"import os, signal; open({str(fifo)!r}, 'w').write(str(os.getpid())); signal.pause()"
    os.mkfifo(fifo)
    return step(store, "train", code)


def test_stopping_the_executor_ends_the_step(tmp_path: Path) -> None:
    plan = {"store": str(tmp_path / "store"), "steps": [waiting_step(tmp_path / "store", tmp_path / "fifo")]}
    process = start(tmp_path / "run", plan)
    pid = int((tmp_path / "fifo").read_text())
    step_process = os.pidfd_open(pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert select.select([step_process], [], [], 20)[0], "the step outlived the run"
    assert events(tmp_path / "run")[-1]["state"] == "stopped"
    assert not (tmp_path / "store" / "objects").exists()


def test_killing_the_executor_ends_the_step_and_frees_the_lock(tmp_path: Path) -> None:
    store = tmp_path / "store"
    process = start(tmp_path / "run", {"store": str(store), "steps": [waiting_step(store, tmp_path / "fifo")]})
    pid = int((tmp_path / "fifo").read_text())
    step_process = os.pidfd_open(pid)
    process.kill()
    process.wait()
    assert select.select([step_process], [], [], 20)[0], "the step outlived its executor"
    assert execute({"store": str(store), "steps": [step(store, "train", WRITE)]}, tmp_path / "again") == 0


def environment(folder: Path, tool: str) -> Path:
    """The Python of an environment with a tool of its own; like a virtual environment's it is a link to another."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / tool).write_text("#!/bin/sh\necho of the environment\n")
    (folder / "bin" / tool).chmod(0o755)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder / "bin" / "python"


@pytest.mark.parametrize("relative", [False, True])
def test_a_step_finds_the_tools_of_its_environment(tmp_path: Path, monkeypatch, relative: bool) -> None:
    python = environment(tmp_path / "venv", "libneuronpjrt-path")
    monkeypatch.chdir(tmp_path)
    one = step(tmp_path / "store", "train", f"import os; os.chdir('/'); {CALLS_A_TOOL}")
    one["argv"][0] = str(python.relative_to(tmp_path) if relative else python)
    assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text() == "of the environment\n"


def test_a_bare_python_leaves_the_path_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", f"/nowhere:{environment(tmp_path / 'venv', 'tool').parent}")
    one = step(tmp_path / "store", "train", "import os; print(os.environ['PATH'])")
    one["argv"][0] = "python"
    assert execute({"store": str(tmp_path / "store"), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text().strip() == os.environ["PATH"]


@pytest.mark.parametrize("folder", ["venv", "my venv $x"])
@pytest.mark.parametrize("relative", [False, True])
def test_the_printed_command_finds_them_too(tmp_path: Path, folder: str, relative: bool) -> None:
    python = environment(tmp_path / folder, "libneuronpjrt-path")
    start = str(python.relative_to(tmp_path) if relative else python)
    step_ = Step("train", "train", "train-1", (start, "-c", CALLS_A_TOOL), {}, cached=True, resumable=False)
    done = subprocess.run(["bash", "-c", command_line(step_)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "of the environment\n"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("print('first'); print('last'); sys.exit(3)", 3, "last (exit status 3; all of its output: "),
        ("sys.exit(1)", 1, "it printed nothing (exit status 1; "),
        ("import os; os.kill(os.getpid(), 9)", -9, "it printed nothing (killed by SIGKILL; "),
    ],
)
def test_a_failed_step_has_a_reason(tmp_path: Path, code: str, status: int, reason: str) -> None:
    one = step(tmp_path, "train", f"import sys; {code}")
    with pytest.raises(StepFailed) as failure:
        run_command(one, tmp_path / "log", tmp_path / "events.jsonl", {}, ())
    assert (failure.value.stage, failure.value.status) == ("train", status)
    assert failure.value.reason.startswith(reason)


def test_a_killed_rank_is_named_with_its_signal(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text("import os, signal\nif os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n")
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    with pytest.raises(StepFailed, match=r"^rank 1 was killed by SIGKILL \(exit status 1; "):
        run_command({**step(tmp_path, "train", ""), "argv": argv}, tmp_path / "log", tmp_path / "events.jsonl", {}, ())


def test_a_step_that_starts_while_a_signal_arrives_is_terminated(tmp_path: Path, monkeypatch) -> None:
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    one = step(tmp_path, "train", "import time; time.sleep(60)")
    with signals.raised(), pytest.raises(signals.Stopped):
        run_command(one, tmp_path / "log", tmp_path / "events.jsonl", {}, ())
    assert started[0].returncode == -signal.SIGTERM


def test_an_earlier_attempt_is_not_the_reason(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("train.py: earlier\n")
    one = {**step(tmp_path, "train", "raise SystemExit(1)")}
    with pytest.raises(StepFailed, match="^it printed nothing"):
        run_command(one, tmp_path / "log", tmp_path / "events.jsonl", {}, ())


def test_the_programs_own_message_goes_before_other_output(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "print('train.py: --rank 0: must be positive'); print('W0000 something else'); raise SystemExit(2)"
    )
    one = {**step(tmp_path, "train", ""), "argv": [sys.executable, str(program)]}
    with pytest.raises(StepFailed, match="^train.py: --rank 0: must be positive"):
        run_command(one, tmp_path / "log", tmp_path / "events.jsonl", {}, ())


def test_what_a_step_leaves_running_is_ended(tmp_path: Path) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    run_command(step(tmp_path, "train", code), tmp_path / "log", tmp_path / "events.jsonl", {}, ())
    assert ends(int((tmp_path / "log").read_text()))


def ends(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    try:
        return bool(select.select([os.pidfd_open(pid)], [], [], 20)[0])
    except ProcessLookupError:
        return True
