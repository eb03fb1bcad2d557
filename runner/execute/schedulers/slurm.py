"""Slurm: a plan becomes a job, or several that wait for each other where its steps want different allocations.

    python -m runner.execute.schedulers.slurm --steps train,export RUN    what a job runs

A job is requeued when its node dies, and requeues itself before its time is up; it then goes on from the last
checkpoint. On several nodes the first one runs the plan, and srun starts an executor on the others.

Standard library alone: it travels.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.execute import executor
from runner.execute.agent import TOKENS
from runner.execute.schedulers import Refused, Unreachable, ask, path

ENDS_WAITING = True
_WARNING = 90  # seconds before its time is up that a job hears of it; a step has 30 of them to end
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


def submit(plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
    """An array for runs that are asked for alike; else, for each run, a job for each part of its plan."""
    first = next(iter(plans.values()))["job"]["parts"]
    if len(plans) > 1 and len(first) == 1 and all(plan["job"]["parts"] == first for plan in plans.values()):
        number = _sbatch(array(plans), [])
        return [[f"{number}_{index}"] for index in range(len(plans))]
    ids: list[list[str]] = []
    try:
        for run, plan in plans.items():
            ids.append([])
            for part in plan["job"]["parts"]:
                after = [f"--dependency=afterok:{ids[-1][-1]}", "--kill-on-invalid-dep=yes"] if ids[-1] else []
                ids[-1].append(_sbatch(script(run, plan, part), after))
    except Refused:
        cancel([one for its in ids for one in its])
        raise
    return ids


def _sbatch(text: str, words: Sequence[str]) -> str:
    # Slurm would keep the environment with the job; tokens travel in a file
    env = {name: value for name, value in os.environ.items() if name not in TOKENS}
    return ask(["sbatch", "--parsable", *words], env, text).strip().partition(";")[0]


def text(plan: Mapping[str, Any], run: str) -> str:
    """The batch scripts."""
    return "\n".join(script(Path(run), plan, part) for part in plan["job"]["parts"])


def script(run: Path, plan: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """The batch script of one part; it is submitted in the folder that plans run in."""
    log = f"\\{run}/executor.log"  # the backslash has Slurm replace no %j, in the folder's name above it neither
    options = {"output": log, "open-mode": "append", **part["options"]}
    return _script(plan, options, [f"exec {_command(plan, part)} {shlex.quote(str(run))}"])


def array(plans: Mapping[Path, Mapping[str, Any]]) -> str:
    """The batch script of several runs, one each for the elements of an array."""
    plan = next(iter(plans.values()))
    [part] = plan["job"]["parts"]
    at_once = f"%{plan['job']['at_once']}" if plan["job"]["at_once"] else ""
    options = {"array": f"0-{len(plans) - 1}{at_once}", "output": "/dev/null", **part["options"]}
    choose = [f"set -- {shlex.join(map(str, plans))}", "shift $SLURM_ARRAY_TASK_ID"]
    return _script(plan, options, [*choose, f'exec {_command(plan, part)} "$1" >>"$1/executor.log" 2>&1'])


def _command(plan: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    steps = ",".join(part["steps"])
    return shlex.join([plan["job"]["python"], "-m", "runner.execute.schedulers.slurm", "--steps", steps])


def _script(plan: Mapping[str, Any], options: Mapping[str, str], commands: Sequence[str]) -> str:
    """A user's option replaces ours; one that is `false` is left out."""
    ours = {"job-name": plan["recipe"], "requeue": "true", "signal": f"B:USR1@{_WARNING}"}
    lines = [
        f"#SBATCH --{name}" if value.lower() == "true" else f"#SBATCH --{name}={_quoted(value)}"
        for name, value in {**ours, **options}.items() if value.lower() != "false"
    ]  # fmt: skip
    environment = f"export PYTHONUTF8=1 PYTHONPATH={path(plan['job']['code'])}"
    return "\n".join(["#!/bin/sh", *lines, environment, *commands, ""])


def _quoted(value: str) -> str:
    """As sbatch reads a value that holds blanks, quotes, # or backslashes; others stay as they are."""
    if re.fullmatch(r"[\w./:@%+,=-]+", value, re.ASCII):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def look(ids: Sequence[str]) -> str:
    """Slurm forgets what has ended."""
    try:
        printed = ask(["squeue", "--noheader", f"--jobs={','.join(ids)}", "--format=%T|%r"])
    except Refused as error:
        if "Invalid job id" in str(error):
            return "gone"
        raise Unreachable(str(error)) from None
    states = [line.strip().partition("|") for line in printed.splitlines() if line.strip()]
    if not states:
        return "gone"
    waiting = [reason for state, _, reason in states if state in _WAITING]
    return f"waiting: {waiting[0]}" if len(waiting) == len(states) else "running"


def reason(ids: Sequence[str]) -> str:
    """Such as NODE_FAIL, OUT_OF_MEMORY, or FAILED (NonZeroExitCode)."""
    try:
        told = [dict(_fields(ask(["scontrol", "show", "job", one]))) for one in ids]
    except Refused:
        return ""
    bad = [f"{one['JobState']} ({one['Reason']})" for one in told if one["JobState"] != "COMPLETED"]
    return bad[0] if bad else ""


def _fields(text: str) -> list[list[str]]:
    return [word.split("=", 1) for word in text.split() if "=" in word]


def cancel(ids: Sequence[str]) -> None:
    """Ask Slurm to end the jobs: the last one first, so that none is let in by the end of another."""
    if ids:
        ask(["scancel", "--quiet", *reversed(ids)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m runner.execute.schedulers.slurm", description="Run steps.")
    parser.add_argument("run", type=Path, help="folder that records the run")
    parser.add_argument("--steps", required=True, help="stages, with commas between them")
    args = parser.parse_args(argv)
    words = [str(args.run / "plan.json"), "--run", str(args.run), "--steps", args.steps, "--attempt", _attempt()]
    os.environ.setdefault(executor.NAME, socket.gethostname())
    others = _start_others(int(os.environ["SLURM_JOB_NUM_NODES"]) - 1, words)
    status = executor.main(words)
    if others and status == 0:
        others.wait()
    if status == executor.INTERRUPTED:
        ask(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    return status


def _attempt() -> str:
    """What tells this execution of the job from the one before it was requeued."""
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _start_others(count: int, words: Sequence[str]) -> subprocess.Popen | None:
    """An executor on each other node; Slurm ends them with the job. They may use all that the job has there."""
    if count == 0:
        return None
    numbered = ["sh", "-c", 'exec "$@" --node $((SLURM_PROCID + 1))', "sh"]
    srun = ["srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--relative=1", "--cpu-bind=none"]
    command = [*srun, *numbered, sys.executable, "-m", "runner.execute", *words]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
