"""Runs a plan on this machine. Standard library alone: the same file runs on every machine.

    python -m runner.execute PLAN.json --run FOLDER

Skips a step whose artifact is in the store, waits for one that another run is making, and writes what
happens to FOLDER/events.jsonl; the output of a step goes to FOLDER/logs/STAGE.log. Steps read and write
the same event file through RUNNER_EVENTS. A step that computes on NeuronCores leases them.

With --lifeline the run ends when standard input does, unless that said `detach` before: then it lives on alone.
With --echo every event is printed too, as `OFFSET EVENT`, those first that the file has already: so what an executor
prints that goes on with a run is the whole stream, and a reader knows what of it is new.

Exit status: 0 all done; a failed step's own 1 or 2; 130 stopped by SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner import cores
from runner.host import EVENTS, LOCK, follow
from runner.store import Store

SECRETS = "secrets.json"  # in the run folder: environment variables that no command line or record may show
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_ROOT = "NEURON_RT_ROOT_COMM_ID"  # where the collectives of one run meet: HOST:PORT
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
    """The run's event stream: appends one JSON object a line.

    A file beside it keeps some room, so that a run can still say what happened when the disk is full.
    """

    def __init__(self, path: Path):
        self.path, self._room = path, path.with_name("room-for-last-words")
        with contextlib.suppress(OSError):
            self._room.write_bytes(bytes(2**16))

    def emit(self, event: str, **fields: Any) -> None:
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        try:
            self._write(line)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.free_room()
            self._write(line)

    def free_room(self) -> None:
        self._room.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        with self.path.open("ab", buffering=0) as stream:
            stream.write(line.encode() + b"\n")


def execute(plan: dict[str, Any], run: Path) -> int:
    """Run every step of `plan` in order; `run` is the folder that records it. Returns the exit status."""
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / "artifacts").mkdir(exist_ok=True)
    events = Events(run / EVENTS)
    events.emit("run", state="started", pid=os.getpid())
    os.environ.update(_secrets(run))
    try:
        for step in plan["steps"]:
            try:
                _run_step(step, Store(plan["store"]), run, events)
            except OSError as error:
                raise StepFailed(step["stage"], 1, f"{error.filename or run}: {error.strerror}") from error
    except StepFailed as failure:
        events.free_room()
        events.emit("step", stage=failure.stage, state="failed", reason=failure.reason)
        return _end(events, "failed", 2 if failure.status == 2 else 1)
    except Stopped:
        return _end(events, "stopped", 130)
    return _end(events, "finished", 0)


def _secrets(run: Path) -> dict[str, str]:
    """What travelled in a file of its own; it is gone from the disk with the first look."""
    try:
        text = (run / SECRETS).read_text()
    except FileNotFoundError:
        return {}
    (run / SECRETS).unlink()
    return json.loads(text)


def _end(events: Events, state: str, status: int) -> int:
    events.emit("run", state=state, status=status)
    events.free_room()
    return status


def _run_step(step: dict[str, Any], store: Store, run: Path, events: Events) -> None:
    stage, key, shared = step["stage"], step["key"], step["cached"]
    started = time.monotonic()

    def say(state: str, **fields: Any) -> None:
        events.emit("step", stage=stage, state=state, **fields)

    def done() -> bool:
        return shared and store.has(key)

    def waiting(maker: str) -> None:
        say("waiting", holder=f"run {maker}, which is making it")

    say("begun")
    made: dict[str, Any] = {}
    if not done():
        with store.lock(key, waiting, run.name) as descriptor:
            if not done():
                store.prepare(key, keep=step["resumable"])
                with _cores(step, run, say) as (environment, leased):
                    memory = _run_command(step, run, events, environment, (descriptor, *leased))
                made = {"peak_memory": memory}
                store.publish(key) if shared else store.take(key, run / "artifacts" / stage)
    if shared:
        _link_artifact(run, stage, store.path(key))
    _keep_results(run, stage)
    say("finished" if made else "cached", seconds=round(time.monotonic() - started, 3), **made)


@contextlib.contextmanager
def _cores(step: dict[str, Any], run: Path, say: Callable[..., None]) -> Iterator[tuple[dict[str, str], Sequence[int]]]:
    """Lease what the step computes on: the environment that says which, and the descriptors that hold it."""
    wanted = step.get("cores")
    if not wanted:
        yield {}, ()
        return
    on_wait = (lambda holders: say("waiting", holder=f"NeuronCores; held are {holders}")) if wanted["wait"] else None
    try:
        with cores.lease(wanted["count"], wanted["of"], run.name, on_wait) as held:
            yield _core_environment(held, step["env"]), held.descriptors
    except cores.NoFreeCores as error:
        raise StepFailed(step["stage"], 2, f"no {wanted['count']} NeuronCores are free: {error}") from None


def _core_environment(held: cores.Lease, planned: dict[str, str]) -> dict[str, str]:
    """Cores of this lease alone, and a port for them to find each other that no other lease uses."""
    root, _, port = planned.get(_ROOT, "").rpartition(":")
    ports = {_ROOT: f"{root}:{int(port) + held.first}"} if root else {}
    return {"NEURON_RT_VISIBLE_CORES": held.visible, **ports}


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


def _run_command(
    step: dict[str, Any], run: Path, events: Events, environment: dict[str, str], inherit: Sequence[int]
) -> int:
    """Run the step's command; returns the peak memory, in bytes, of the largest of its processes."""
    log = run / "logs" / f"{step['stage']}.log"
    told = {"RUNNER_EVENTS": str(events.path.resolve()), "RUNNER_STAGE": step["stage"]}
    with log.open("ab") as output:
        process = subprocess.Popen(
            step["argv"],
            env={**os.environ, **step["env"], **environment, **told},
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
    if not said and not shutil.disk_usage(log).free:
        return f"the disk is full: no room below {log.parent.resolve()}"
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


def _hold_to(lifeline: int) -> None:
    """End this process, as by SIGTERM, when `lifeline` does without having said `detach`."""

    def watch() -> None:
        with open(lifeline, "rb", buffering=0) as stream:  # noqa: PTH123  # a descriptor
            said = stream.read()
        if not said.startswith(b"detach"):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _echo(run: Path) -> None:
    """Print the run's events until its lock is let go; the interpreter waits for this."""
    offset = 0
    for line in follow(run):
        if line:
            print(offset, line.decode(), flush=True)
            offset += len(line) + 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m runner.execute", description="Run a plan on this machine.")
    parser.add_argument("plan", type=Path, help="plan.json")
    parser.add_argument("--run", type=Path, required=True, help="folder that records the run")
    parser.add_argument("--lifeline", action="store_true", help="end with standard input")
    parser.add_argument("--echo", action="store_true", help="print the events too")
    args = parser.parse_args(argv)
    with _signals(_stop), (args.run / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for as long as this run lives
        lock.write(str(os.getpid()).encode())
        lock.flush()
        if args.lifeline:
            _hold_to(sys.stdin.fileno())
        if args.echo:
            threading.Thread(target=_echo, args=(args.run,)).start()
        return execute(json.loads(args.plan.read_text()), args.run)


if __name__ == "__main__":
    sys.exit(main())
