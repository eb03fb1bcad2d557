"""Runs a plan on this machine. Standard library alone: the same file runs on every machine.

    python -m runner.execute PLAN.json --run FOLDER

Skips a step whose artifact is in the store, waits for one that another run is making, and writes what
happens to FOLDER/events.jsonl; the output of a step goes to FOLDER/logs/STAGE.log. Steps read and write
the same event file through RUNNER_EVENTS.

Exit status: 0 all done; a failed step's own 1 or 2; 130 stopped by SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.store import Store

LOCK = "lock"  # in the run folder
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_PATIENCE = 30.0  # seconds between asking a stopped step to end and killing it


class Stopped(Exception):
    """A signal asked the run to end."""


class StepFailed(Exception):
    """A step's command ended with another exit status than 0."""

    def __init__(self, stage: str, status: int, reason: str):
        super().__init__(reason)
        self.stage, self.status, self.reason = stage, status, reason


class Events:
    """The run's event stream: appends one JSON object a line."""

    def __init__(self, path: Path):
        self.path = path

    def emit(self, event: str, **fields: Any) -> None:
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        with self.path.open("ab", buffering=0) as stream:
            stream.write(line.encode() + b"\n")


def execute(plan: dict[str, Any], run: Path) -> int:
    """Run every step of `plan` in order; `run` is the folder that records it. Returns the exit status."""
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / "artifacts").mkdir(exist_ok=True)
    events = Events(run / "events.jsonl")
    events.emit("run", state="started", pid=os.getpid())
    try:
        for step in plan["steps"]:
            _run_step(step, Store(plan["store"]), run, events)
    except StepFailed as failure:
        events.emit("step", stage=failure.stage, state="failed", reason=failure.reason)
        return _end(events, "failed", 2 if failure.status == 2 else 1)
    except Stopped:
        return _end(events, "stopped", 130)
    return _end(events, "finished", 0)


def _end(events: Events, state: str, status: int) -> int:
    events.emit("run", state=state, status=status)
    return status


def _run_step(step: dict[str, Any], store: Store, run: Path, events: Events) -> None:
    stage, key, shared = step["stage"], step["key"], step["cached"]
    started = time.monotonic()

    def say(state: str, **fields: Any) -> None:
        events.emit("step", stage=stage, state=state, **fields)

    def done() -> bool:
        return shared and store.has(key)

    say("begun")
    made: dict[str, Any] = {}
    if not done():
        with store.lock(key, lambda holder: say("waiting", holder=holder), holder=run.name) as descriptor:
            if not done():
                store.prepare(key, keep=step["resumable"])
                made = {"peak_memory": _run_command(step, run, events, (descriptor,))}
                store.publish(key) if shared else store.take(key, run / "artifacts" / stage)
    if shared:
        _link_artifact(run, stage, store.path(key))
    _keep_results(run, stage)
    say("finished" if made else "cached", seconds=round(time.monotonic() - started, 3), **made)


def _link_artifact(run: Path, stage: str, artifact: Path) -> None:
    link = run / "artifacts" / stage
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(artifact, link.parent))


def _keep_results(run: Path, stage: str) -> None:
    """Copy the figures of an artifact into the record, which outlives the artifact."""
    for figures in sorted((run / "artifacts" / stage).glob("*.json")):
        kept = run / "results" / stage / figures.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(figures, kept)


def _run_command(step: dict[str, Any], run: Path, events: Events, inherit: Sequence[int]) -> int:
    """Run the step's command; returns the peak memory, in bytes, of the largest of its processes."""
    log = run / "logs" / f"{step['stage']}.log"
    told = {"RUNNER_EVENTS": str(events.path.resolve()), "RUNNER_STAGE": step["stage"]}
    with log.open("ab") as output:
        process = subprocess.Popen(
            step["argv"],
            env={**os.environ, **step["env"], **told},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=inherit,
            preexec_fn=end_with_parent,
        )
    try:
        _, ended, usage = os.wait4(process.pid, 0)
        status = process.returncode = os.waitstatus_to_exitcode(ended)
    finally:
        _end_group(process)
    if status != 0:
        raise StepFailed(step["stage"], status, _reason(step["argv"], status, log))
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _end_group(process: subprocess.Popen) -> None:
    """End whatever of the step's process group is left: asked first, then killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(argv: Sequence[str], status: int, log: Path) -> str:
    """Why a step failed: what its program said, which other output may follow; else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    programs = tuple(f"{Path(word).name}: " for word in argv if word.endswith(".py"))
    said = [line for line in lines if line.startswith(programs)]
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{(said or lines or ['it printed nothing'])[-1]} ({how}; all of its output: {log})"


def end_with_parent() -> None:
    """For Popen(preexec_fn=): have the kernel end the child, by SIGTERM, when the process that started it dies."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean-up short
    raise Stopped


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m runner.execute", description="Run a plan on this machine.")
    parser.add_argument("plan", type=Path, help="plan.json")
    parser.add_argument("--run", type=Path, required=True, help="folder that records the run")
    args = parser.parse_args(argv)
    with _signals(_stop), (args.run / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for as long as this run lives
        return execute(json.loads(args.plan.read_text()), args.run)


if __name__ == "__main__":
    sys.exit(main())
