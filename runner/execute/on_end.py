"""The user's own command at the end of a run, such as one that sends a message. Standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.execute import credentials, signals
from runner.execute.events import EventWriter
from runner.execute.process import start
from runner.execute.run_folder import read_events, run_name

_PATIENCE = 20.0  # seconds; Slurm kills a cancelled job after 30


def call(plan: Mapping[str, Any], run: Path, state: str, events: EventWriter) -> None:
    """Run the command of a plan, if it has one, with sh. If it fails or takes too long, that is one warning."""
    command = plan.get("on_end")
    if not command:
        return
    log = run / "logs" / "on_end.log"
    about = {"RUN": run_name(run), "RECIPE": plan["recipe"], "STATE": state, "REASON": _reason(run)}
    try:
        status = _run(command, {f"RUNNER_{name}": value for name, value in about.items()}, log)
        problem = f"exit status {status}; its output: {log}" if status else ""
    except subprocess.TimeoutExpired:
        problem = f"killed after {_PATIENCE:g} s"
    except (signals.Stopped, signals.Interrupted):
        problem = "killed, because the run was told to end meanwhile"
    except OSError as error:
        problem = str(error)
    if problem:
        with contextlib.suppress(OSError):  # a full disk; the end of the run is recorded
            events.emit("log", level="warning", message=f"target.on_end: {problem}")


def _run(command: str, environment: Mapping[str, str], log: Path) -> int:
    """The exit status of a command that gets no credentials; nothing of it is left afterwards."""
    env = {**credentials.of_step({"argv": [command], "env": {}}), **environment}
    with contextlib.ExitStack() as group:
        return start(group, ["sh", "-c", command], log, _kill_group, env=env).wait(_PATIENCE)


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(run: Path) -> str:
    """Why the run failed; empty if it did not."""
    failed = [event for event in read_events(run, "step") if event["state"] == "failed"]
    return f"{failed[-1]['stage']}: {failed[-1]['reason']}" if failed else ""
