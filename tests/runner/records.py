"""Records of runs for tests: made by the real executor, from steps that only write a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runner.compose.recipe import compose
from runner.execute import agent
from runner.execute.executor import execute
from runner.paths import ROOT
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

WRITE = "import sys, pathlib; f = pathlib.Path(sys.argv[1]) / sys.argv[2]; f.write_text(sys.argv[3])"


def a_run(
    folder: Path, *overrides: str, stage: str = "train", key: str = "train-1", trial: str = "", **figures: float
) -> Run:
    """A finished run in folder/runs with one step whose artifact holds `figures` as training.json.

    A `trial` is SWEEP/NUMBER, in folder/runs/sweeps.
    """
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store", *overrides])
    store = folder / "store"
    argv = (sys.executable, "-c", WRITE, str(store / "partial" / key), "training.json", json.dumps(figures))
    plan = Plan("quickstart", str(store), (Step(stage, "train", key, argv, {}, True, False),))
    made = create.create(composed, plan, folder / "runs" / "sweeps" / trial if trial else None)
    assert execute(plan.as_json(), made) == 0
    return Run(made)


def ended(folder: Path, program: str) -> Run:
    """A run in folder/runs that has ended, of two stages: the second runs `program`, Python code."""
    composed, store = compose("quickstart", [f"paths.runs={folder}/runs"]), folder / "store"
    codes = {"fetch": "print('fetched')", "train": program}
    commands = {name: (sys.executable, "-c", code) for name, code in codes.items()}
    steps = (Step(name, name, f"{name}-1", argv, {}, True, False) for name, argv in commands.items())
    plan = Plan("quickstart", str(store), tuple(steps))
    made = create.create(composed, plan)
    execute(plan.as_json(), made)
    return Run(made)


def waiting(folder: Path) -> Run:
    """A run in progress in folder/runs: its stage prints a line, then waits until the run is cancelled."""
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store"])
    argv = (sys.executable, "-c", "import time; print('at work', flush=True); time.sleep(600)")
    plan = Plan("quickstart", str(folder / "store"), (Step("train", "wait", "train-1", argv, {}, True, False),))
    run = Run(create.create(composed, plan))
    agent.start(run.folder, ROOT)
    return run


def away(folder: Path, port: int, key: str) -> Run:
    """A run on another machine, reached at a port of this one, whose end is not known here."""
    run = a_run(folder, "target=ssh", f"target.host=127.0.0.1:{port}", f"name={key}", key=key)
    events = run.folder / "events.jsonl"
    events.write_text(events.read_text().splitlines(keepends=True)[0])
    (run.folder / "plan.json").write_text(json.dumps({**run.plan, "where": f"127.0.0.1:{port}"}))
    return Run(run.folder)


def a_sweep(folder: Path, name: str, objective: str = "train.loss", direction: str = "minimize") -> Path:
    """The folder of a sweep, with what it says of itself."""
    sweep = folder / "runs" / "sweeps" / name
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"objective": objective, "direction": direction}))
    return sweep


def start_at(run: Run, started: str) -> Run:
    """The run as if it had been started at another time."""
    manifest = run.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "started": started}))
    return Run(run.folder)
