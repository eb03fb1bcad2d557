"""Slurm: a plan becomes one job, or a chain of jobs where its steps need different allocations.

    python -m runner.execute.schedulers.slurm --steps train,export RUN    the command in a batch script

A job is requeued when its node dies, and requeues itself before its time limit; it then resumes from the last
checkpoint. On several nodes the first one runs the plan, and srun starts an executor on each other one.

Standard library alone.
"""

from __future__ import annotations

import argparse
import json
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
from runner.execute.rendezvous import NODE_NAME
from runner.execute.run_folder import EXECUTOR_LOG, HUB_TOKENS
from runner.execute.schedulers import base
from runner.execute.schedulers.base import EXPECTED, Refused, Unreachable, command_output, python_path

_WARNING = 90  # seconds before its time limit that a job gets SIGUSR1; a step has 45 of them to end
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


class Scheduler(base.Scheduler):
    """The cluster that sbatch, squeue, scontrol and scancel reach from this machine."""

    def submit(self, plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
        """An array for runs with equal allocations; otherwise, for each run, one job for each part of its plan."""
        plans = {run: _with_memory(plan) for run, plan in plans.items()} if _allocates_memory() else plans
        parts = next(iter(plans.values()))["job"]["parts"]
        if len(plans) > 1 and len(parts) == 1 and all(plan["job"]["parts"] == parts for plan in plans.values()):
            array = _sbatch(array_script(plans))
            return [[f"{array}_{index}"] for index in range(len(plans))]
        submitted: list[list[str]] = []
        try:
            for run, plan in plans.items():
                submitted.append([])
                for part in plan["job"]["parts"]:
                    submitted[-1].append(_sbatch(batch_script(run, plan, part), after=submitted[-1]))
        except Refused:
            self.cancel([job for ids in submitted for job in ids])
            raise
        return submitted

    def submission(self, plan: Mapping[str, Any], run: str) -> str:
        scripts = (batch_script(Path(run), plan, part) for part in _with_memory(plan)["job"]["parts"])
        note = "# --mem is left out where Slurm does not allocate memory (SelectTypeParameters)\n"
        return "\n".join([*scripts, note])

    def state(self, ids: Sequence[str]) -> str:
        """Slurm forgets a job some time after it has ended."""
        try:
            listing = command_output(["squeue", "--noheader", f"--jobs={','.join(ids)}", "--format=%T|%r|%S"])
        except Refused as error:
            if "Invalid job id" in str(error):
                return "gone"
            raise Unreachable(str(error)) from None
        jobs = [line.strip().split("|") for line in listing.splitlines() if line.strip()]
        if not jobs:
            return "gone"
        waiting = [f"{reason}{_expected(start)}" for state, reason, start in jobs if state in _WAITING]
        return f"waiting: {waiting[0]}" if len(waiting) == len(jobs) else "running"

    def reason(self, ids: Sequence[str]) -> str:
        """Such as NODE_FAIL, OUT_OF_MEMORY, or FAILED (NonZeroExitCode)."""
        try:
            jobs = [_fields(command_output(["scontrol", "show", "job", job])) for job in ids]
        except Refused:
            return ""
        failed = [f"{job['JobState']} ({job['Reason']})" for job in jobs if job["JobState"] != "COMPLETED"]
        return failed[0] if failed else ""

    def cancel(self, ids: Sequence[str]) -> None:
        """The last job first, so that none starts because the one before it ended."""
        if ids:
            command_output(["scancel", "--quiet", *reversed(ids)])


def _expected(start: str) -> str:
    """When Slurm expects a job to start, to the minute; nothing where it does not tell."""
    day, separator, time = start.partition("T")
    return f"{EXPECTED}{day} {time[:5]}" if separator else ""


def _allocates_memory() -> bool:
    """Whether jobs are given memory here, and killed if they take more."""
    settings = command_output(["scontrol", "show", "config"]).splitlines()
    return any("memory" in line.lower() for line in settings if line.startswith("SelectTypeParameters"))


def _with_memory(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with the option --mem, unless the user has set an option that says it."""
    parts = [
        {**part, "options": {**({"mem": part["memory"]} if _asks_for_memory(part) else {}), **part["options"]}}
        for part in plan["job"]["parts"]
    ]
    return {**plan, "job": {**plan["job"], "parts": parts}}


def _asks_for_memory(part: Mapping[str, Any]) -> bool:
    return bool(part["memory"]) and not {"mem", "mem-per-cpu", "mem-per-gpu"} & set(part["options"])


def _comment(run: Path, plan: Mapping[str, Any]) -> str:
    """What operators and accounting see of a job: its recipe, and who started it."""
    manifest = run / "manifest.json"
    user = json.loads(manifest.read_text(encoding="utf-8"))["user"] if manifest.is_file() else "USER"
    return f"recipe={plan['recipe']} user={user}"


def _sbatch(script: str, after: Sequence[str] = ()) -> str:
    """Submit a batch script that waits for the last of the jobs `after`; returns its id."""
    dependency = [f"--dependency=afterok:{after[-1]}", "--kill-on-invalid-dep=yes"] if after else []
    # Slurm would keep the environment with the job; tokens travel in a file
    env = {name: value for name, value in os.environ.items() if name not in HUB_TOKENS}
    return command_output(["sbatch", "--parsable", *dependency], env, script).strip().partition(";")[0]


def batch_script(run: Path, plan: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    """The batch script of one part of a plan; it is submitted in the folder that plans run in."""
    log = f"\\{run}/{EXECUTOR_LOG}"  # the backslash keeps Slurm from replacing %j, also in the folder's own name
    options = {"comment": _comment(run, plan), "output": log, "open-mode": "append", **part["options"]}
    return _script(plan, options, [f"exec {_command(plan, part)} {shlex.quote(str(run))}"])


def array_script(plans: Mapping[Path, Mapping[str, Any]]) -> str:
    """The batch script of an array with one run for each of its elements."""
    plan = next(iter(plans.values()))
    [part] = plan["job"]["parts"]
    limit = f"%{plan['job']['at_once']}" if plan["job"]["at_once"] else ""
    comment = _comment(next(iter(plans)), plan)
    options = {"comment": comment, "array": f"0-{len(plans) - 1}{limit}", "output": "/dev/null", **part["options"]}
    choose_run = [f"set -- {shlex.join(map(str, plans))}", "shift $SLURM_ARRAY_TASK_ID"]
    return _script(plan, options, [*choose_run, f'exec {_command(plan, part)} "$1" >>"$1/{EXECUTOR_LOG}" 2>&1'])


def _command(plan: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    steps = ",".join(part["steps"])
    return shlex.join([plan["job"]["python"], "-m", "runner.execute.schedulers.slurm", "--steps", steps])


def _script(plan: Mapping[str, Any], options: Mapping[str, str], commands: Sequence[str]) -> str:
    """A user's option replaces ours; one that is `false` is left out."""
    defaults = {"job-name": plan["recipe"], "requeue": "true", "signal": f"B:USR1@{_WARNING}"}
    lines = [
        f"#SBATCH --{name}" if value.lower() == "true" else f"#SBATCH --{name}={_quoted(value)}"
        for name, value in {**defaults, **options}.items() if value.lower() != "false"
    ]  # fmt: skip
    environment = f"export PYTHONUTF8=1 PYTHONPATH={python_path(plan['job']['code'])}"
    return "\n".join(["#!/bin/sh", *lines, environment, *commands, ""])


def _quoted(value: str) -> str:
    """Quoted for sbatch where the value holds blanks, quotes, # or backslashes."""
    if re.fullmatch(r"[\w./:@%+,=-]+", value, re.ASCII):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _fields(text: str) -> dict[str, str]:
    """The NAME=VALUE fields that scontrol prints."""
    return dict(field.split("=", 1) for field in text.split() if "=" in field)


def main(argv: Sequence[str] | None = None) -> int:
    """Run some steps as this Slurm job, on all of its nodes; requeues the job if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m runner.execute.schedulers.slurm", description="Run steps.")
    parser.add_argument("run", type=Path, help="folder that records the run")
    parser.add_argument("--steps", required=True, help="stages (comma-separated)")
    args = parser.parse_args(argv)
    flags = [str(args.run / "plan.json"), "--run", str(args.run), "--steps", args.steps, "--attempt", _attempt()]
    os.environ.setdefault(NODE_NAME, socket.gethostname())
    others = _start_other_nodes(int(os.environ["SLURM_JOB_NUM_NODES"]) - 1, flags)
    status = executor.main(flags)
    if others and status == 0:
        others.wait()
    if status == executor.INTERRUPTED:
        command_output(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    return status


def _attempt() -> str:
    """Tells this execution of the job from the one before it was requeued."""
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _start_other_nodes(count: int, flags: Sequence[str]) -> subprocess.Popen | None:
    """Start an executor on each other node, with all that the job has there; Slurm ends them with the job."""
    if count == 0:
        return None
    with_rank = ["sh", "-c", 'exec "$@" --node $((SLURM_PROCID + 1))', "sh"]
    srun = ["srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1", "--relative=1", "--cpu-bind=none"]
    command = [*srun, *with_rank, sys.executable, "-m", "runner.execute", *flags]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
