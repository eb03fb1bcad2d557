"""Runs on the machine that executes plans, in the folder that they run in: starts, follows and ends runs there.

Standard library alone. What a controller, near or far, asks of a machine are these functions; over a wire it calls

    python -m runner.execute.agent start RUN     (submit RUN ..., where a scheduler is to start them)
    python -m runner.execute.agent follow RUN --offset 4096
    python -m runner.execute.agent log RUN --stage train --live
    python -m runner.execute.agent state RUN
    python -m runner.execute.agent cancel RUN
    python -m runner.execute.agent send RUN --adapter    (a tar of what the run's record needs)
    python -m runner.execute.agent list FOLDER

where RUN is the folder that records the run. A started run belongs to the machine: it needs no one to follow it. A
run that a scheduler starts belongs to that, and this machine asks it; its folder is where the scheduler's machines
see it too.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from runner.execute import schedulers
from runner.execute.schedulers import job as jobs

EVENTS, LOCK = "events.jsonl", "lock"  # in the run folder; whoever executes the run holds the lock
SWEEP = "sweep.json"  # in the folder of a sweep, which holds the folders of its trials
SECRETS = "secrets.json"  # beside them: environment variables that no command line or record may show
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # of these
CANCELLED = "cancelled"  # there if a run that may not have begun is not to begin any more
HEARTBEAT = 2.0  # seconds of silence after which a follower is told that the link is alive
_FINAL = ("finished", "failed")
_ENDS = (*_FINAL, "stopped")
_LOOK_EVERY = 0.1  # seconds; a person sees no finer


def start(run: Path, folder: Path | None = None, lifeline: int = subprocess.DEVNULL) -> subprocess.Popen:
    """Start the executor of a recorded run in a session of its own; returns when it is at work, or has ended.

    It runs in `folder`, by default the current one. With the reading end of a pipe as its `lifeline` it ends when
    the pipe does (see `runner.execute`).
    """
    command = [sys.executable, "-m", "runner.execute", str(run / "plan.json"), "--run", str(run)]
    if lifeline != subprocess.DEVNULL:
        command.append("--lifeline")
    with (run / "executor.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=lifeline, stdout=log, stderr=log, start_new_session=True)
    while not (run / EVENTS).stat().st_size and process.poll() is None:
        time.sleep(0.01)
    return process


def submit(runs: Sequence[Path]) -> None:
    """Hand recorded runs to the scheduler of their plans. Raises Refused, and then leaves nothing of them."""
    try:
        jobs.submit(runs)
    except schedulers.Refused:
        for run in runs:
            shutil.rmtree(run)
        raise


def name_of(run: Path) -> str:
    """What people call a run: its folder, which for a trial is only a number, so its sweep's comes before it."""
    return f"{run.parent.name}/{run.name}" if (run.parent / SWEEP).is_file() else run.name


def in_progress(run: Path) -> bool:
    """Whether the executor of a run lives."""
    return _holder(run) is not None


def _holder(run: Path) -> int | None:
    """The process that holds the lock of a run."""
    try:
        with (run / LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0)
    except FileNotFoundError:
        pass
    return None


def state(run: Path) -> str:
    """finished, failed or stopped; running; killed, if it ended without a word; of a job also `waiting: WHY`."""
    job = jobs.of(run)
    alive = job.look() if job else "running" if in_progress(run) else "gone"  # asked before reading the last word
    said = last_word(run)
    if said in _FINAL or (said == "stopped" and (alive == "gone" or not job or (run / CANCELLED).exists())):
        return said
    return "killed" if alive == "gone" else alive


def last_word(run: Path) -> str | None:
    """What the run said of itself last: started, interrupted, finished, failed or stopped; None before it began."""
    states = [event["state"] for event in events(run) if event["event"] == "run"]
    return states[-1] if states else None


def events(run: Path) -> Iterator[dict[str, Any]]:
    """What happened, in order; a line that is still being written is left out."""
    with (run / EVENTS).open("rb") as lines:
        yield from (json.loads(line) for line in lines if line.endswith(b"\n"))


def follow(run: Path, offset: int = 0) -> Iterator[bytes]:
    """The event stream from byte `offset` on, whole lines as they come, until the run has ended.

    Now and then an empty line while nothing happens. A line that begins with a blank is no part of the stream: it
    tells why a job waits, or why it ended without a word.
    """
    job = jobs.of(run)
    if job:
        return _follow_job(run, offset, job)
    return (line or b"" for line in _growing(run / EVENTS, offset, lambda: in_progress(run)))


def _follow_job(run: Path, offset: int, job: jobs.Job) -> Iterator[bytes]:
    waited, final = "", []

    def lives() -> bool:
        if (run / CANCELLED).exists():  # who cancels it says so at last
            return last_word(run) not in _ENDS
        return not final and job.look() != "gone"

    for line in _growing(run / EVENTS, offset, lives):
        yield line or b""
        if line and _is_final(json.loads(line)):
            final.append(line)
        if line is None and job.look().startswith("waiting") and job.look() != waited:
            waited = job.look()
            yield _note("info", f"{job} is {waited}")
    if last_word(run) not in _ENDS and job.reason():
        yield _note("error", f"{job} ended: {job.reason()}{_last_line(run / 'executor.log')}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace", encoding="utf-8").strip().splitlines() if log.exists() else []
    return f"; it said: {lines[-1]}" if lines else ""


def _note(level: str, message: str) -> bytes:
    return b" " + json.dumps({"event": "log", "level": level, "message": message}).encode()


def _is_final(event: dict[str, Any]) -> bool:
    """Whether nothing comes after it: a job that was stopped may be started again."""
    return event["event"] == "run" and event["state"] in _FINAL


def follow_log(run: Path, stage: str | None, live: bool) -> Iterator[bytes]:
    """The output of a stage, by default of the one at work, line by line; while it grows if `live`.

    Each line begins with a blank, so that the empty ones while nothing happens are told from those of the log.
    """
    happened = {event["stage"]: event["state"] for event in events(run) if event["event"] == "step"}
    name = stage or next(reversed(happened), "")
    log, job = run / "logs" / f"{name}.log", jobs.of(run)

    def grows() -> bool:
        lives = job.look() != "gone" if job else in_progress(run)
        return live and name in happened and lives and _at_work(run, name)

    while not log.exists() and grows():  # the step waits for cores, or for another run
        yield b""
        time.sleep(_LOOK_EVERY)
    if log.exists():
        yield from (b"" if line is None else b" " + line for line in _growing(log, 0, grows))


def _at_work(run: Path, stage: str) -> bool:
    states = [event["state"] for event in events(run) if event["event"] == "step" and event["stage"] == stage]
    return states[-1] in ("begun", "waiting")


def _growing(file: Path, offset: int, grows: Callable[[], bool]) -> Iterator[bytes | None]:
    """Lines of a file from byte `offset` on, while it `grows`; None after some time without one."""
    rest, ended, spoke = b"", False, time.monotonic()
    with file.open("rb") as stream:
        stream.seek(offset)
        while not ended:
            ended = not grows()  # asked before reading, so that nothing written is missed
            *lines, rest = (rest + stream.read()).split(b"\n")
            yield from lines
            if lines:
                spoke = time.monotonic()
            elif time.monotonic() - spoke > HEARTBEAT:
                spoke = time.monotonic()
                yield None
            if not ended:
                time.sleep(_LOOK_EVERY)


def cancel(run: Path) -> str:
    """Ask a run to end and wait until nothing of it is left. Returns its state."""
    job = jobs.of(run)
    if job:
        return _cancel_job(run, job)
    holder = _holder(run)
    if holder:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)
        with (run / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    return state(run)


def _cancel_job(run: Path, job: jobs.Job) -> str:
    """Also one that has not begun: then nobody else says that it was stopped, or removes its secrets."""
    (run / CANCELLED).touch()
    if job.look() != "gone":
        job.cancel()
    if last_word(run) not in _ENDS:
        with (run / EVENTS).open("ab") as stream:
            event = {"time": round(time.time(), 3), "event": "run", "state": "stopped", "status": 130}
            stream.write(json.dumps(event).encode() + b"\n")
    (run / SECRETS).unlink(missing_ok=True)
    return state(run)


def send(run: Path, stream: IO[bytes], record: bool, adapter: bool) -> None:
    """Write a tar: what is known before the first step (`record`), or what came of the run, the adapter by choice."""
    wanted = ["recipe.yaml", "manifest.json", "plan.json", "uncommitted.diff"] if record else [
        "results", "logs", "executor.log", "artifacts/evaluate/samples.jsonl", "artifacts/generate/answers.jsonl",
        *(["artifacts/export/adapter"] if adapter else []),
    ]  # fmt: skip
    with tarfile.open(fileobj=stream, mode="w|", dereference=True) as archive:
        for name in wanted:
            if (run / name).exists():
                archive.add(run / name, name)


def _say(lines: Iterator[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m runner.execute.agent", description="Start, follow and stop runs.")
    parser.add_argument("verb", choices=("start", "submit", "follow", "state", "cancel", "log", "send", "list"))
    parser.add_argument("run", type=Path, help="folder that records the run")
    parser.add_argument("more", type=Path, nargs="*", help="other runs to submit together")
    parser.add_argument("--offset", type=int, default=0, help="of the event stream, bytes")
    parser.add_argument("--stage", help="whose output (default: of the one at work)")
    parser.add_argument("--live", action="store_true", help="go on while it grows")
    parser.add_argument("--record", action="store_true", help="send what is known before the first step")
    parser.add_argument("--adapter", action="store_true", help="send the adapter too")
    args = parser.parse_args(argv)
    try:
        _answer(args)
    except schedulers.Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


def _answer(args: argparse.Namespace) -> None:
    if args.verb == "log":
        _say(follow_log(args.run, args.stage, args.live))
    elif args.verb == "send":
        send(args.run, sys.stdout.buffer, args.record, args.adapter)
    elif args.verb == "list":
        print(*sorted(path.parent.name for path in args.run.glob("*/plan.json")))
    elif args.verb == "follow":
        _say(follow(args.run, args.offset))
    elif args.verb == "start":
        start(args.run)
    elif args.verb == "submit":
        submit([args.run, *args.more])
    else:
        print({"state": state, "cancel": cancel}[args.verb](args.run))


if __name__ == "__main__":
    sys.exit(main())
