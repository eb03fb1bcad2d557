"""The commands with which a controller, near or far, starts, follows and ends runs on this machine.

    python -m runner.execute.agent start RUN     (submit RUN ..., to have a scheduler start them)
    python -m runner.execute.agent follow RUN --offset 4096
    python -m runner.execute.agent log RUN --stage train --live
    python -m runner.execute.agent state RUN --offset 4096    (then the events from there on)
    python -m runner.execute.agent cancel RUN
    python -m runner.execute.agent send RUN --adapter    (a tar of what the run's record needs)
    python -m runner.execute.agent list FOLDER
    python -m runner.execute.agent overview FOLDER    (of each run as JSON: name, state, stage, seconds)
    python -m runner.execute.agent gc FOLDER --store STORE --days 30 --dry-run    (or --gb N, --unreachable, --verify)

RUN is the folder that records the run. A run that was started belongs to this machine and needs nobody to follow it. A
run that was submitted belongs to its scheduler, which this machine asks; its folder is on a file system that the
scheduler's machines see too.

Standard library alone. It is called in the folder that plans run in.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from runner.execute import credentials, files, gc
from runner.execute.events import EventWriter
from runner.execute.run_folder import (
    CANCELLED,
    ENDED,
    EVENTS,
    EXECUTOR_LOG,
    FINAL,
    LOCK,
    SECRETS,
    executor_pid,
    in_progress,
    last_state,
    parse_event,
    stage_states,
    time_span,
)
from runner.execute.schedulers import job as jobs
from runner.execute.schedulers.base import EXPECTED, Refused
from runner.execute.schedulers.job import Job

_POLL = 0.1  # seconds
_RECORD = ("recipe.yaml", "manifest.json", "plan.json", "uncommitted.diff")
_RESULTS = (
    "results", "logs", EXECUTOR_LOG, "artifacts/evaluate/samples.jsonl", "artifacts/generate/answers.jsonl",
)  # fmt: skip
_ADAPTER = ("artifacts/export/adapter",)


def start(run: Path, folder: Path | None = None, lifeline: int = subprocess.DEVNULL) -> subprocess.Popen:
    """Start the executor of a recorded run in a session of its own; returns once it has begun, or has ended.

    It runs in `folder`, by default the current one. With the reading end of a pipe as its `lifeline` it is stopped
    when the pipe closes (see `runner.execute`).
    """
    command = [sys.executable, "-m", "runner.execute", str(run / "plan.json"), "--run", str(run)]
    if lifeline != subprocess.DEVNULL:
        command.append("--lifeline")
    with (run / EXECUTOR_LOG).open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=credentials.of_executor(), stdin=lifeline, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    while not (run / EVENTS).stat().st_size and process.poll() is None:
        time.sleep(0.01)
    return process


def submit(runs: Sequence[Path]) -> None:
    """Hand recorded runs to the scheduler that their plans name. Raises Refused, and then removes their folders."""
    try:
        jobs.submit(runs)
    except Refused:
        for run in runs:
            shutil.rmtree(run)
        raise


def state(run: Path) -> str:
    """finished, failed, stopped or running; killed, if it ended without reporting; of a job also `waiting: WHY`."""
    job = jobs.of_run(run)
    now = _process_state(run, job)  # asked before reading the events, which may end in between
    reported = last_state(run)
    if reported in FINAL:
        return reported
    if reported == "stopped" and (now == "gone" or not job or (run / CANCELLED).exists()):
        return reported
    return "killed" if now == "gone" else now


def state_and_events(run: Path, offset: int) -> Iterator[bytes]:
    """The state of a run, and the whole lines of its event stream from byte `offset` on."""
    yield state(run).encode()
    yield from filter(None, files.tail(run / EVENTS, offset, lambda: False))


def overview(folder: Path) -> Iterator[dict[str, Any]]:
    """The name, state, current stage and seconds of each run in a folder; a damaged record says so as its state."""
    for name in list_runs(folder):
        try:
            yield {"run": name, **_describe(folder / name)}
        except (OSError, ValueError, KeyError) as error:
            yield {"run": name, "state": f"its record is damaged: {error}", "stage": "", "seconds": 0.0}


def _describe(run: Path) -> dict[str, Any]:
    now = state(run)
    begun, last = time_span(run)
    end = time.time() if now == "running" else last
    return {"state": now, "stage": next(reversed(stage_states(run)), ""), "seconds": end - (begun or end)}


def _process_state(run: Path, job: Job | None) -> str:
    if job:
        return job.state()
    return "running" if in_progress(run) else "gone"


def follow(run: Path, offset: int = 0) -> Iterator[bytes]:
    """The event stream from byte `offset` on, in whole lines as they are written, until the run has ended.

    An empty line now and then while nothing happens. A line that begins with a blank is not in the file: it is a
    message about the job, why it waits or why it ended without reporting.
    """
    job = jobs.of_run(run)
    if job:
        return _follow_job(run, offset, job)
    return (line or b"" for line in files.tail(run / EVENTS, offset, lambda: in_progress(run)))


def _follow_job(run: Path, offset: int, job: Job) -> Iterator[bytes]:
    reason, final = "", False

    def is_growing() -> bool:
        if (run / CANCELLED).exists():  # then `cancel` writes the last event, if nobody else does
            return last_state(run) not in ENDED
        return not (final and not in_progress(run)) and job.state() != "gone"

    for line in files.tail(run / EVENTS, offset, is_growing):
        yield line or b""
        final = final or bool(line) and _is_final(parse_event(line))
        if line is None and _why_waiting(now := job.state()) not in ("", reason):
            reason = _why_waiting(now)
            yield _message("info", f"{job} is {now}")
    if last_state(run) not in ENDED and job.reason():
        yield _message("error", f"{job} ended: {job.reason()}{_last_line(run / EXECUTOR_LOG)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace", encoding="utf-8").strip().splitlines() if log.exists() else []
    return f"; its last output: {lines[-1]}" if lines else ""


def _message(level: str, message: str) -> bytes:
    return b" " + json.dumps({"event": "log", "level": level, "message": message}).encode()


def _is_final(event: dict[str, Any] | None) -> bool:
    return event is not None and event["event"] == "run" and event["state"] in FINAL


def follow_log(run: Path, stage: str | None, live: bool, onward: bool) -> Iterator[bytes]:
    """The output of a stage (by default the latest), line by line; with `live` until the stage ends.

    With `onward`, also the output of the stages after it, until the run ends. Each line begins with a blank, to tell an
    empty line of the log from the empty ones sent while nothing happens. One that begins with an exclamation mark says
    why no stage has begun, one with `>` names the stage whose output follows.
    """
    job = jobs.of_run(run)
    if live:
        yield from _wait_for(run, job, lambda begun: stage in begun if stage else bool(begun))
    name: str | None = stage or next(reversed(stage_states(run)), "")
    while name is not None:
        if onward and name:
            yield f">{name}".encode()
        yield from _stage_log(run, job, name, live)
        if onward:
            yield from _wait_for(run, job, lambda begun, last=name: _after(last, begun) is not None)
        name = _after(name, list(stage_states(run))) if onward else None


def _after(stage: str, begun: Sequence[str]) -> str | None:
    """The stage that began after another one."""
    return next(iter(begun[begun.index(stage) + 1 :]), None) if stage in begun else None


def _stage_log(run: Path, job: Job | None, stage: str, live: bool) -> Iterator[bytes]:
    log = run / "logs" / f"{stage}.log"

    def is_growing() -> bool:
        running = live and _process_state(run, job) != "gone"
        return running and stage_states(run).get(stage) in ("begun", "waiting")

    while not log.exists() and is_growing():  # the step waits for cores, or for another run
        yield b""
        time.sleep(_POLL)
    if log.exists():
        yield from (b"" if line is None else b" " + line for line in files.tail(log, 0, is_growing))


def _wait_for(run: Path, job: Job | None, is_due: Callable[[list[str]], bool]) -> Iterator[bytes]:
    """Wait until the stages that have begun are those that are due, or the run has ended."""
    said = ""
    while (now := _process_state(run, job)) != "gone" and last_state(run) not in ENDED:
        if is_due(list(stage_states(run))):
            return
        if _why_waiting(now) not in ("", said):
            said = _why_waiting(now)
            yield f"!{job} is {now}".encode()
        else:
            yield b""
            time.sleep(_POLL)


def _why_waiting(state: str) -> str:
    """Why a job waits, without the time at which it may start, which changes often; empty if it does not wait."""
    return state.partition(EXPECTED)[0] if state.startswith("waiting") else ""


def cancel(run: Path) -> str:
    """Ask a run to end and wait until no process of it is left. Returns its state."""
    job = jobs.of_run(run)
    if job:
        return _cancel_job(run, job)
    pid = executor_pid(run)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        files.wait_until_unlocked(run / LOCK)
    return state(run)


def _cancel_job(run: Path, job: Job) -> str:
    """A job that has not begun cannot report that it was stopped, or remove its secrets: do it here."""
    (run / CANCELLED).touch()
    if job.state() != "gone":
        job.cancel()
    if last_state(run) not in ENDED:
        writer = EventWriter(run / EVENTS)
        writer.emit("run", state="stopped", status=130)
        writer.release_space()
    (run / SECRETS).unlink(missing_ok=True)
    return state(run)


def send(run: Path, stream: IO[bytes], record: bool, adapter: bool) -> None:
    """Write a tar of what is known before the first step (`record`), or else of the results, the adapter by choice."""
    names = _RECORD if record else _RESULTS + (_ADAPTER if adapter else ())
    with tarfile.open(fileobj=stream, mode="w|", dereference=True) as archive:
        for name in names:
            if (run / name).exists():
                archive.add(run / name, name)


def list_runs(folder: Path) -> list[str]:
    """The names of the run folders in a folder."""
    return sorted(path.parent.name for path in folder.glob("*/plan.json"))


def _print_lines(lines: Iterable[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def free(args: argparse.Namespace) -> None:
    """Free the store, or with --verify check it; exits with gc.DAMAGED if it finds damage. Raises gc.NoStore."""
    with _signs_of_life():
        if not args.verify:
            rules, copies = gc.Rules(args.days, args.gb, args.unreachable), gc.Copies(Path(), args.active)
            gc.collect(args.store, args.run, rules, args.dry_run, copies)
        elif gc.verify(args.store):
            sys.exit(gc.DAMAGED)


@contextlib.contextmanager
def _signs_of_life() -> Iterator[None]:
    """Print an empty line now and then, also while large files are read."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(files.HEARTBEAT):
            print(flush=True)

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()  # what is printed next may be the answer to another request


_VERBS = {
    "start": lambda args: start(args.run),
    "submit": lambda args: submit([args.run, *args.more]),
    "follow": lambda args: _print_lines(follow(args.run, args.offset)),
    "log": lambda args: _print_lines(follow_log(args.run, args.stage, args.live or args.onward, args.onward)),
    "state": lambda args: _print_lines(state_and_events(args.run, args.offset)),
    "cancel": lambda args: print(cancel(args.run)),
    "send": lambda args: send(args.run, sys.stdout.buffer, args.record, args.adapter),
    "list": lambda args: print(*list_runs(args.run)),
    "overview": lambda args: print(*map(json.dumps, overview(args.run)), sep="\n"),
    "gc": free,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 1, with the reason on stderr, where a scheduler refuses a run or there is no store."""
    parser = argparse.ArgumentParser(prog="python -m runner.execute.agent", description="Start, follow and stop runs.")
    parser.add_argument("verb", choices=_VERBS)
    parser.add_argument("run", type=Path, help="folder that records the run; for list, overview, gc: of runs")
    parser.add_argument("more", type=Path, nargs="*", help="other runs to submit together")
    parser.add_argument("--offset", type=int, default=0, help="where in the event stream to begin, in bytes")
    parser.add_argument("--stage", help="the stage of the log (default: the latest)")
    parser.add_argument("--live", action="store_true", help="follow the log until the stage ends")
    parser.add_argument("--onward", action="store_true", help="follow the log and those of the stages after it")
    parser.add_argument("--record", action="store_true", help="send what is known before the first step")
    parser.add_argument("--adapter", action="store_true", help="send the adapter too")
    parser.add_argument("--store", type=Path, help="the store, as plans write it")
    parser.add_argument("--days", type=float, help="for gc, as the following: see runner gc --help")
    parser.add_argument("--gb", type=float)
    for flag in ("--unreachable", "--dry-run", "--verify"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--active", nargs="*", default=[], help="for gc: runs that a cluster may still start a pod of")
    args = parser.parse_args(argv)
    try:
        _VERBS[args.verb](args)
    except (Refused, gc.NoStore) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
