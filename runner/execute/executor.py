"""Runs a plan on this machine. Standard library alone: the same file runs on every machine.

    python -m runner.execute PLAN.json --run FOLDER

Skips a step whose artifact is in the store, waits for one that another run is making, and writes what happens to
FOLDER/events.jsonl; the output of a step goes to FOLDER/logs/STAGE.log. Steps read and write the same event file
through RUNNER_EVENTS. A step that computes on NeuronCores leases them.

With --lifeline the run is stopped when its standard input closes, unless `detach` was written to that before.
With --echo every event is printed too, as `OFFSET EVENT`, beginning with those already in the file: a reader sees the
whole stream, and the offset tells it which events are new.

A step of several nodes starts on all of them: on the first by this program, on each other one by a program that was
started with --node. They find each other through a file in FOLDER, which is on a file system that all nodes see.

Exit status: 0 when all steps are done; 1 or 2 as a failed step's own; 130 when stopped by SIGINT or SIGTERM; 75 when
interrupted by SIGUSR1, with which a scheduler warns of its time limit, or because a step's program was. Started again,
the run resumes; if two attempts in a row leave nothing to resume from, the run fails with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from runner.execute import attempts, cores, files, on_end, preflight, signals
from runner.execute.events import EventWriter, echo
from runner.execute.process import StepFailed, run_command
from runner.execute.remote_store import RemoteStore
from runner.execute.rendezvous import Rendezvous, node_environment
from runner.execute.run_folder import CANCELLED, EVENTS, JOB, LOCK, NODES, SECRETS, read_events, run_name, stage_states
from runner.execute.store import Store, names_used

INTERRUPTED = 75  # <sysexits.h> EX_TEMPFAIL
_STALLED = (
    "two attempts in a row were interrupted before a checkpoint or a finished step: allow a longer time "
    "(target.slurm.time), or make a training step shorter (train.batch_size, train.accumulate)"
)


def execute(plan: Mapping[str, Any], run: Path, stages: Sequence[str] | None = None, attempt: str = "") -> int:
    """Run the steps of `plan`, or only those of some `stages`, in order; `run` is the folder that records it.

    The run is finished with the plan's last step. `attempt` is the scheduler's, for the rendezvous with other nodes.
    Returns the exit status.
    """
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / "artifacts").mkdir(exist_ok=True)
    return Executor(plan, run, attempt).execute(stages)


class Executor:
    """Runs the steps of one plan on the first, or only, node."""

    def __init__(self, plan: Mapping[str, Any], run: Path, attempt: str):
        self._plan, self._run = plan, run
        self._store = Store(plan["store"])
        self._events = EventWriter(run / EVENTS)
        self._remote = RemoteStore(plan.get("remote_store"), self._store, run, self._events)
        self._rendezvous = Rendezvous(run / NODES, attempt)

    def execute(self, stages: Sequence[str] | None = None) -> int:
        """Run all steps, or those of some stages; returns the exit status."""
        steps = [step for step in self._plan["steps"] if stages is None or step["stage"] in stages]
        status = self._run_steps(steps)
        if status in (0, 1, 2) and any(step.get("nodes", 1) > 1 for step in steps):
            self._rendezvous.close()  # otherwise the run will be resumed, on all nodes
        return status

    def _run_steps(self, steps: Sequence[Mapping[str, Any]]) -> int:
        try:
            self._events.emit("run", state="started", pid=os.getpid(), host=socket.gethostname())
            os.environ.update(_load_secrets(self._run))
            pending = [step for step in steps if not self._is_done(step)]
            preflight.check_packages([*pending, *self._remote.requirement()])
            preflight.check_ports(pending)
            self._remote.check(steps)
            with self._using(steps) as self._uses, self._remote.pushing(self._uses):
                for step in steps:
                    with self._os_errors_fail(step):
                        self._run_step(step)
        except StepFailed as failure:
            if attempts.interrupted_itself(read_events(self._run), failure.stage):
                return self._interrupt()
            return self._fail(failure)
        except signals.Stopped:
            return self._stop()
        except signals.Interrupted:
            return self._interrupt()
        is_last = bool(steps) and steps[-1] is self._plan["steps"][-1]
        return self._end("finished", 0) if is_last else 0

    def _fail(self, failure: StepFailed) -> int:
        self._events.release_space()
        self._emit({"stage": failure.stage}, "failed", reason=failure.reason)
        return self._end("failed", 2 if failure.status == 2 else 1)

    def _interrupt(self) -> int:
        """End such that a scheduler starts the run again, unless that would go on without end."""
        if attempts.stalled(read_events(self._run)):
            return self._fail(StepFailed(next(reversed(stage_states(self._run))), 1, _STALLED))
        self._events.emit("run", state="interrupted", status=INTERRUPTED)
        return INTERRUPTED

    def _stop(self) -> int:
        """End. A job that was not cancelled keeps its secrets: its scheduler may have requeued it."""
        if (self._run / JOB).exists() and not (self._run / CANCELLED).exists():
            return self._report_end("stopped", 130)
        return self._end("stopped", 130)

    def _using(self, steps: Sequence[Mapping[str, Any]]) -> AbstractContextManager[tuple[int, ...]]:
        return self._store.using(names_used({**self._plan, "steps": steps}))

    def _end(self, state: str, status: int) -> int:
        (self._run / SECRETS).unlink(missing_ok=True)
        return self._report_end(state, status)

    def _report_end(self, state: str, status: int) -> int:
        self._events.emit("run", state=state, status=status)
        on_end.call(self._plan, self._run, state, self._events)
        self._events.release_space()
        return status

    @contextlib.contextmanager
    def _os_errors_fail(self, step: Mapping[str, Any]) -> Iterator[None]:
        """Let a full disk or a missing file fail the step with one line."""
        try:
            yield
        except OSError as error:
            path = error.filename2 or error.filename or self._run  # of a link or a rename the second is the new name
            raise StepFailed(step["stage"], 1, f"{path}: {error.strerror}") from error

    def _is_done(self, step: Mapping[str, Any]) -> bool:
        return step["cached"] and self._store.has(step["key"])

    def _run_step(self, step: Mapping[str, Any]) -> None:
        stage, start = step["stage"], time.monotonic()
        self._emit(step, "begun")
        peak_memory = None if self._is_done(step) else self._make(step)
        if step["cached"]:
            _link_artifact(self._run, stage, self._store.path(step["key"]))
            self._remote.push(step)
        _keep_results(self._run, stage)
        seconds = round(time.monotonic() - start, 3)
        if peak_memory is None:
            self._emit(step, "cached", seconds=seconds)
        else:
            self._emit(step, "finished", seconds=seconds, peak_memory=peak_memory)

    def _make(self, step: Mapping[str, Any]) -> int | None:
        """Make the step's artifact; returns the peak memory in bytes, or None if it was made elsewhere."""
        key = step["key"]
        with self._store.lock(key, lambda run: self._wait_for_run(step, run), run_name(self._run)) as descriptor:
            if self._is_done(step):
                return None
            self._set_damaged_aside(step)
            if self._remote.fetch(step, descriptor):
                return None
            self._store.prepare(key, keep=step["resumable"])
            self._remote.fetch_checkpoints(step, descriptor)
            with self._remote.pushing_checkpoints(step):
                peak_memory = self._run_command(step, descriptor)
            if step["cached"]:
                self._store.publish(key)
            else:
                self._store.take(key, self._run / "artifacts" / step["stage"])
            return peak_memory

    def _set_damaged_aside(self, step: Mapping[str, Any]) -> None:
        key = step["key"]
        if step["cached"] and self._store.path(key).is_dir():
            damage, moved = self._store.damage(key), self._store.set_aside(key)
            message = f"{key} in the store is damaged: {damage}; it was moved to {moved} and is made again"
            self._events.emit("log", stage=step["stage"], level="warning", message=message)

    def _run_command(self, step: Mapping[str, Any], descriptor: int) -> int:
        log = self._run / "logs" / f"{step['stage']}.log"
        with _leased_cores(step, self._run, lambda holders: self._wait_for_cores(step, holders)) as (environment, held):
            if step.get("nodes", 1) > 1:
                environment = {**environment, **self._rendezvous.announce(step["stage"])}
            return run_command(step, log, self._events.path, environment, (descriptor, *held, *self._uses))

    def _wait_for_run(self, step: Mapping[str, Any], run: str) -> None:
        self._emit(step, "waiting", holder=f"run {run}, which is making it")

    def _wait_for_cores(self, step: Mapping[str, Any], holders: str) -> None:
        self._emit(step, "waiting", holder=f"NeuronCores; held are {holders}")

    def _emit(self, step: Mapping[str, Any], state: str, **fields: Any) -> None:
        self._events.emit("step", stage=step["stage"], state=state, **fields)


def join(plan: Mapping[str, Any], run: Path, attempt: str, rank: int) -> int:
    """Be node `rank` of the plan's multi-node steps: start each when the first node announces it.

    Returns the exit status.
    """
    steps = {step["stage"]: step for step in plan["steps"]}
    events = EventWriter(run / f"events-node-{rank}.jsonl")
    try:
        for stage, first_host in Rendezvous(run / NODES, attempt).announced():
            _run_as_node(steps[stage], run, events, rank, first_host)
    except StepFailed as failure:
        print(f"{failure.stage}: {failure.reason}", file=sys.stderr)
        return failure.status
    except (signals.Stopped, signals.Interrupted):
        return 130
    return 0


def _run_as_node(step: Mapping[str, Any], run: Path, events: EventWriter, rank: int, first_host: str) -> None:
    def wait_for_cores(holders: str) -> None:
        events.emit("step", stage=step["stage"], state="waiting", holder=f"NeuronCores; held are {holders}")

    log = run / "logs" / f"{step['stage']}.node-{rank}.log"
    with _leased_cores(step, run, wait_for_cores) as (environment, held):
        run_command(step, log, events.path, {**environment, **node_environment(rank, first_host)}, held)


@contextlib.contextmanager
def _leased_cores(
    step: Mapping[str, Any], run: Path, on_wait: Callable[[str], None]
) -> Iterator[tuple[dict[str, str], Sequence[int]]]:
    """Lease the NeuronCores of a step, unless they were granted already.

    Yields the environment that names them, and the file descriptors that hold the lease. Raises StepFailed.
    """
    wanted, granted = step.get("cores"), os.environ.get(cores.VISIBLE_CORES)
    if not wanted:
        yield {}, ()
    elif granted:  # by Ray, or by the user who started this
        yield cores.environment(granted, int(re.split("[,-]", granted)[0]), step["env"]), ()
    else:
        try:
            wait = on_wait if wanted["wait"] else None
            with cores.lease(wanted["count"], wanted["of"], run_name(run), wait) as lease:
                environment = cores.environment(lease.visible, lease.first, step["env"])
                if cores.ROOT_ADDRESS in environment and step.get("ports"):
                    preflight.check_port(step["stage"], int(environment[cores.ROOT_ADDRESS].rpartition(":")[2]))
                yield environment, lease.descriptors
        except cores.NoFreeCores as error:
            raise StepFailed(step["stage"], 2, f"no {wanted['count']} NeuronCores are free: {error}") from None


def _load_secrets(run: Path) -> dict[str, str]:
    """The environment variables that travelled in a file, which is then removed.

    A scheduler may start the run again: then the file stays until the run ends.
    """
    try:
        text = (run / SECRETS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    if not (run / JOB).exists():
        (run / SECRETS).unlink()
    return json.loads(text)


def _link_artifact(run: Path, stage: str, artifact: Path) -> None:
    link = run / "artifacts" / stage
    target = Path(os.path.relpath(artifact, link.parent))
    if not (link.is_symlink() and link.readlink() == target):  # who reads it meanwhile always finds it
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _keep_results(run: Path, stage: str) -> None:
    """Copy an artifact's JSON results into the record, which outlives the artifact."""
    for file in sorted((run / "artifacts" / stage).glob("*.json")):
        kept = run / "results" / stage / file.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.copy_atomic(file, kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m runner.execute`."""
    parser = argparse.ArgumentParser(prog="python -m runner.execute", description="Run a plan on this machine.")
    parser.add_argument("plan", type=Path, help="plan.json")
    parser.add_argument("--run", type=Path, required=True, help="folder that records the run")
    parser.add_argument("--steps", metavar="STAGES", help="run only these stages (comma-separated; there may be none)")
    parser.add_argument("--node", type=int, default=0, help="rank of this node; 0 runs the plan (default: 0)")
    parser.add_argument("--attempt", default="", help="the scheduler's id of this execution; the same on all nodes")
    parser.add_argument("--lifeline", action="store_true", help="stop when standard input closes")
    parser.add_argument("--echo", action="store_true", help="print the events too")
    args = parser.parse_args(argv)
    if (args.run / CANCELLED).exists():
        return 130
    plan = json.loads(args.plan.read_text(encoding="utf-8"))
    try:
        with signals.raised():
            if args.node:
                return join(plan, args.run, args.attempt, args.node)
            return _execute_alone(plan, args)
    except (signals.Stopped, signals.Interrupted):  # before the first step, or after the last
        return 130
    except OSError as error:  # then the run could not record its end, as on a disk without any space
        print(f"{error.filename or args.run}: {error.strerror or error}", file=sys.stderr)
        return 1


def _execute_alone(plan: Mapping[str, Any], args: argparse.Namespace) -> int:
    """Execute while holding the run's lock, by which others see that it is in progress."""
    with (args.run / LOCK).open("wb") as lock:
        files.lock(lock)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        if args.lifeline:
            signals.stop_at_end_of(sys.stdin.fileno())
        if args.echo:
            threading.Thread(target=echo, args=(args.run,)).start()  # ends when the lock is released
        return execute(plan, args.run, None if args.steps is None else args.steps.split(","), args.attempt)
