"""Runs a plan on this machine. Standard library alone: the same file runs on every machine.

    python -m runner.execute PLAN.json --run FOLDER

Skips a step whose artifact is in the store, waits for one that another run is making, and writes what
happens to FOLDER/events.jsonl; the output of a step goes to FOLDER/logs/STAGE.log. Steps read and write
the same event file through RUNNER_EVENTS. A step that computes on NeuronCores leases them.

With --lifeline the run ends when standard input does, unless that said `detach` before: then it lives on alone.
With --echo every event is printed too, as `OFFSET EVENT`, those first that the file has already: so what an executor
prints that goes on with a run is the whole stream, and a reader knows what of it is new.

A step of several nodes starts on all of them: on the first by this program, on the others by one each that was started
with --node. They find each other through a file in FOLDER, which is on a file system that all see.

Exit status: 0 all done; a failed step's own 1 or 2; 130 stopped by SIGINT or SIGTERM; 75 interrupted by SIGUSR1, with
which a scheduler says that its time is up: started again, the run goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.execute import cores, probe, requirements
from runner.execute.agent import CANCELLED, EVENTS, LOCK, SECRETS, follow, name_of
from runner.execute.schedulers.job import JOB
from runner.execute.store import Store

INTERRUPTED = 75  # <sysexits.h> EX_TEMPFAIL
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
NAME = "RUNNER_NODE_NAME"  # how others reach this machine, where that is not its host name
_MEETING = "nodes.json"  # in the run folder: where the nodes of the step at work meet
_CORES = "NEURON_RT_VISIBLE_CORES"  # `4`, `4-7` or `4,5,6,7`
_ROOT = "NEURON_RT_ROOT_COMM_ID"  # where the collectives of one run meet: HOST:PORT
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_PATIENCE = 30.0  # seconds between asking a stopped step to end and killing it
_SKEW = 0.5  # seconds: who ends a whole job may tell the step before this program, and then it is stopped, not failed
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_LOOK_EVERY = 0.5  # seconds between looks of another node for its next step


class Stopped(Exception):
    """A signal asked the run to end."""


class Interrupted(Exception):
    """A signal said that the time of this machine is up; the run will go on."""


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


def execute(plan: dict[str, Any], run: Path, stages: Sequence[str] = (), attempt: str = "") -> int:
    """Run the steps of `plan`, or those of some `stages`, in order; `run` is the folder that records it.

    The run is finished with the plan's last step. Returns the exit status. `attempt` tells other nodes of which
    execution a step is.
    """
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / "artifacts").mkdir(exist_ok=True)
    events = Events(run / EVENTS)
    events.emit("run", state="started", pid=os.getpid(), host=socket.gethostname())
    os.environ.update(_secrets(run))
    steps = [step for step in plan["steps"] if not stages or step["stage"] in stages]
    meeting = Meeting(run / _MEETING, attempt)
    status = _run_steps(steps, plan, run, events, meeting)
    if status in (0, 1, 2) and any(step.get("nodes", 1) > 1 for step in steps):
        meeting.end()  # else the run goes on, and the other nodes with it
    return status


def _run_steps(
    steps: Sequence[dict[str, Any]], plan: dict[str, Any], run: Path, events: Events, meeting: Meeting
) -> int:
    store = Store(plan["store"])
    try:
        to_do = [step for step in steps if not (step["cached"] and store.has(step["key"]))]
        check_packages(to_do)
        check_ports(to_do)
        for step in steps:
            try:
                _run_step(step, store, run, events, meeting)
            except OSError as error:
                raise StepFailed(step["stage"], 1, f"{error.filename or run}: {error.strerror}") from error
    except StepFailed as failure:
        events.free_room()
        events.emit("step", stage=failure.stage, state="failed", reason=failure.reason)
        return _end(run, events, "failed", 2 if failure.status == 2 else 1)
    except Stopped:
        return _end(run, events, "stopped", 130)
    except Interrupted:
        events.emit("run", state="interrupted", status=INTERRUPTED)
        return INTERRUPTED
    return _end(run, events, "finished", 0) if steps[-1] is plan["steps"][-1] else 0


def check_packages(steps: Sequence[dict[str, Any]]) -> None:
    """Raise StepFailed, before any work, where an environment lacks what a step will import there."""
    needed: dict[str, list[str]] = {}
    for step in steps:
        for python, texts in step.get("packages", {}).items():
            needed.setdefault(python, []).extend(texts)
    for python, texts in needed.items():
        found = probe.environment(python)
        wrong = [found["error"]] if "error" in found else [
            said for _, said in requirements.unmet(texts, {**found["packages"], requirements.PYTHON: found["version"]})
        ]  # fmt: skip
        if wrong:
            stage = next(step["stage"] for step in steps if python in step.get("packages", {}))
            raise StepFailed(stage, 2, f"{python}: {'; '.join(wrong)} (`runner doctor` says what to do)")


def check_ports(steps: Sequence[dict[str, Any]]) -> None:
    """Raise StepFailed, before any work, where a port that a step will listen on is in use.

    By whatever is not ours: a run that holds NeuronCores of this machine gives its ports back with them.
    """
    for step in steps:
        if step.get("ports") and not cores.holders(step["cores"]["of"]):
            for port in step["ports"]:
                _check_port(step["stage"], port)


def _check_port(stage: str, port: int) -> None:
    if not probe.is_free("0.0.0.0", port):
        raise StepFailed(
            stage, 2, f"port {port} is in use, and Neuron's training listens there: end what has it "
            f"(ss -anp 'sport = :{port}'); `runner doctor` says how to keep it free",
        )  # fmt: skip


class Meeting:
    """A file through which the first node tells the others what to start, and where it is."""

    def __init__(self, file: Path, attempt: str):
        self._file, self._attempt = file, attempt

    @contextlib.contextmanager
    def calling(self, step: dict[str, Any]) -> Iterator[dict[str, str]]:
        """Have the other nodes start a step of several nodes; the environment that says which node this one is."""
        if step.get("nodes", 1) == 1:
            yield {}
            return
        host = os.environ.get(NAME) or socket.gethostname()
        self._write(stage=step["stage"], host=host)
        yield _as_node(0, host)

    def end(self) -> None:
        """Send the other nodes home."""
        self._write(stage="")

    def calls(self) -> Iterator[tuple[str, str]]:
        """On another node, each stage that it is to start, with the first node's host."""
        heard = ""
        while True:
            said = self._read()
            if said.get("attempt") == self._attempt and said["stage"] != heard:
                heard = said["stage"]
                if not heard:
                    return
                yield heard, said["host"]
            time.sleep(_LOOK_EVERY)

    def _write(self, **content: str) -> None:
        aside = self._file.with_suffix(".partial")
        aside.write_text(json.dumps({**content, "attempt": self._attempt}), encoding="utf-8")
        aside.rename(self._file)

    def _read(self) -> dict[str, str]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}


def _as_node(node: int, first: str) -> dict[str, str]:
    """As torchrun takes them."""
    return {"PET_NODE_RANK": str(node), "PET_MASTER_ADDR": first}


def join(plan: dict[str, Any], run: Path, attempt: str, node: int) -> int:
    """Start the steps of several nodes, each when the first node calls, as their `node`-th. Returns the exit status."""
    steps = {step["stage"]: step for step in plan["steps"]}
    events = Events(run / f"events-node-{node}.jsonl")

    def say(state: str, **fields: Any) -> None:
        events.emit("step", state=state, **fields)

    try:
        for stage, first in Meeting(run / _MEETING, attempt).calls():
            with _cores(steps[stage], run, say) as (environment, leased):
                told = {**environment, **_as_node(node, first)}
                _run_command(steps[stage], events, told, leased, run / "logs" / f"{stage}.node-{node}.log")
    except StepFailed as failure:
        print(f"{failure.stage}: {failure.reason}", file=sys.stderr)
        return failure.status
    except (Stopped, Interrupted):
        return 130
    return 0


def _secrets(run: Path) -> dict[str, str]:
    """What travelled in a file of its own; without a scheduler, which may start the run again, it goes at once."""
    try:
        text = (run / SECRETS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    if not (run / JOB).exists():
        (run / SECRETS).unlink()
    return json.loads(text)


def _end(run: Path, events: Events, state: str, status: int) -> int:
    (run / SECRETS).unlink(missing_ok=True)
    events.emit("run", state=state, status=status)
    events.free_room()
    return status


def _run_step(step: dict[str, Any], store: Store, run: Path, events: Events, meeting: Meeting) -> None:
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
        with store.lock(key, waiting, name_of(run)) as descriptor:
            if not done():
                store.prepare(key, keep=step["resumable"])
                with _cores(step, run, say) as (environment, leased), meeting.calling(step) as told:
                    log = run / "logs" / f"{stage}.log"
                    memory = _run_command(step, events, {**environment, **told}, (descriptor, *leased), log)
                made = {"peak_memory": memory}
                store.publish(key) if shared else store.take(key, run / "artifacts" / stage)
    if shared:
        _link_artifact(run, stage, store.path(key))
    _keep_results(run, stage)
    say("finished" if made else "cached", seconds=round(time.monotonic() - started, 3), **made)


@contextlib.contextmanager
def _cores(step: dict[str, Any], run: Path, say: Callable[..., None]) -> Iterator[tuple[dict[str, str], Sequence[int]]]:
    """Lease what the step computes on, if nobody granted it: the environment that says which, and what holds it."""
    wanted = step.get("cores")
    if not wanted:
        yield {}, ()
        return
    granted = os.environ.get(_CORES)
    if granted:  # by Ray, or by who started this
        yield _core_environment(granted, int(re.split("[,-]", granted)[0]), step["env"]), ()
        return
    on_wait = (lambda holders: say("waiting", holder=f"NeuronCores; held are {holders}")) if wanted["wait"] else None
    try:
        with cores.lease(wanted["count"], wanted["of"], name_of(run), on_wait) as held:
            environment = _core_environment(held.visible, held.first, step["env"])
            if _ROOT in environment and step.get("ports"):
                _check_port(step["stage"], int(environment[_ROOT].rpartition(":")[2]))
            yield environment, held.descriptors
    except cores.NoFreeCores as error:
        raise StepFailed(step["stage"], 2, f"no {wanted['count']} NeuronCores are free: {error}") from None


def _core_environment(visible: str, first: int, planned: dict[str, str]) -> dict[str, str]:
    """These cores alone, and a port for them to find each other that no others of this machine use."""
    root, _, port = planned.get(_ROOT, "").rpartition(":")
    ports = {_ROOT: f"{root}:{int(port) + first}"} if root else {}
    return {_CORES: visible, **ports}


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


def environment_bin(python: str) -> Path | None:
    """The folder with the programs of a Python's environment; None for a bare name, which PATH finds already.

    It is where the Python is named, not where a link leads: an environment's `python` often links to /usr/bin.
    """
    return Path(python).parent if os.sep in python else None


def _search_path(python: str) -> str:
    """PATH for a step, beginning with its environment: Neuron's tools, such as neuronx-cc, are called by bare name."""
    folder, found = environment_bin(python), os.environ.get("PATH", os.defpath)
    return f"{folder.absolute()}{os.pathsep}{found}" if folder else found


def _run_command(
    step: dict[str, Any], events: Events, environment: dict[str, str], inherit: Sequence[int], log: Path
) -> int:
    """Run the step's command; returns the peak memory, in bytes, of the largest of its processes."""
    told = {
        "RUNNER_EVENTS": str(events.path.resolve()),
        "RUNNER_STAGE": step["stage"],
        "PATH": _search_path(step["argv"][0]),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            step["argv"],
            env={**_threads(step.get("processes", 1)), **os.environ, **step["env"], **environment, **told},
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
        time.sleep(_SKEW)
        raise StepFailed(step["stage"], status, _reason(step["argv"], status, log))
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _threads(processes: int) -> dict[str, str]:
    """Each process's share of the cores, where the user's OMP_NUM_THREADS does not say: torchrun would give it one."""
    if processes == 1:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // processes))}


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
    lines = [line.strip() for line in log.read_text(errors="replace", encoding="utf-8").splitlines() if line.strip()]
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
    previous = {number: signal.signal(number, handler) for number in _ENDING}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean-up short
    raise Interrupted if number == signal.SIGUSR1 else Stopped


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
    parser.add_argument("--steps", default="", metavar="STAGES", help="only these, with commas between them")
    parser.add_argument("--node", type=int, default=0, help="which of several nodes this is; the first runs the plan")
    parser.add_argument("--attempt", default="", help="of a scheduler; the same on all nodes")
    parser.add_argument("--lifeline", action="store_true", help="end with standard input")
    parser.add_argument("--echo", action="store_true", help="print the events too")
    args = parser.parse_args(argv)
    if (args.run / CANCELLED).exists():
        return 130
    plan, stages = json.loads(args.plan.read_text(encoding="utf-8")), [name for name in args.steps.split(",") if name]
    if args.node:
        with _signals(_stop):
            return join(plan, args.run, args.attempt, args.node)
    with _signals(_stop), (args.run / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for as long as this run lives
        lock.write(str(os.getpid()).encode())
        lock.flush()
        if args.lifeline:
            _hold_to(sys.stdin.fileno())
        if args.echo:
            threading.Thread(target=_echo, args=(args.run,)).start()
        return execute(plan, args.run, stages, args.attempt)


if __name__ == "__main__":
    sys.exit(main())
