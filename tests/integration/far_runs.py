"""Runs whose steps are a few lines of Python, started on a real SSH host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ssh_host import Host

from runner import targets
from runner.compose.recipe import compose
from runner.paths import ROOT
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

# argv: the output folder. Ten lines a second of a log, an event for each; `end` in the working folder ends it.
COUNT = """
import json, os, pathlib, sys, time
stop, n = pathlib.Path("end"), 0
while not stop.exists():
    n += 1
    event = {"time": 1.0, "stage": "train", "event": "metric", "at": n, "values": {"loss": n}}
    with open(os.environ["RUNNER_EVENTS"], "a") as stream:
        stream.write(json.dumps(event) + "\\n")
    print("line", n, flush=True)
    time.sleep(0.02)
(pathlib.Path(sys.argv[1]) / "training.json").write_text(json.dumps({"loss": n, "count": n}))
"""


def a_far_run(work: Path, host: Host, program: str, *overrides: str, **carried: str) -> Run:
    """A recorded run in work/runs for `host`, with one step; `carried` files by name."""
    words = [*host.target, f"sdk.train_python={sys.executable}", f"paths.runs={work}/runs", *overrides]
    composed = compose("quickstart", words)
    argv = (sys.executable, "-c", program, "store/partial/train-1")
    there = {f"inputs/{name}/{Path(path).name}": path for name, path in carried.items()}
    plan = Plan("quickstart", "store", (Step("train", "do train", "train-1", argv, {}, True, True),), there)
    return Run(create.create(composed, targets.of(composed.recipe.target).assign(plan)))


def start(run: Run) -> Any:
    target = targets.of_run(run)
    target.start(run, attached=False)
    return target


def command(host: Host, work: Path, *words: str) -> subprocess.Popen[str]:
    """`runner` as a process, in `work`."""
    argv = [sys.executable, "-u", "-m", "runner", *words]
    env = {**os.environ, "HOME": str(host.home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        argv, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def done(process: subprocess.Popen[str], status: int = 0, timeout: float = 300) -> str:
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, out + err
    return out + err
