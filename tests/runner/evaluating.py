"""Trials of a sweep whose training only reports held-out losses, and then works on until it is ended."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from records import a_sweep

from runner import targets
from runner.compose.recipe import compose
from runner.execute.run_folder import EVENTS
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

# argv: step=loss ... of 100 steps; `last` makes the last of them the end of the training.
EVALUATE = """
import json, os, signal, sys
def tell(**event):
    with open(os.environ["RUNNER_EVENTS"], "a") as stream:
        stream.write(json.dumps({"time": 1.0, "stage": "train", **event}) + "\\n")
steps = [word.split("=") for word in sys.argv[1:] if word != "last"]
for step, loss in steps:
    at_end = "last" in sys.argv and step == steps[-1][0]
    tell(event="progress", done=100 if at_end else int(step), total=100, unit="step")
    tell(event="metric", at=int(step), values={"eval_loss": float(loss)})
if "last" not in sys.argv:
    signal.pause()
"""


def a_trial(folder: Path, name: str, losses: list[str], *overrides: str) -> Run:
    """A recorded trial SWEEP/NUMBER in folder/runs/sweeps, which has not begun; `losses` are STEP=LOSS."""
    if not (folder / "runs" / "sweeps" / name).parent.exists():
        a_sweep(folder, name.partition("/")[0])
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store", *overrides])
    key, argv = f"train-{name.rpartition('/')[2]}", (sys.executable, "-c", EVALUATE, *losses)
    target = targets.of(composed.recipe.target)
    store = f"{folder}/store" if target.local_store else "store"
    plan = target.assign(Plan("quickstart", store, (Step("train", "train", key, argv, {}, True, False),)))
    path = folder / "runs" / "sweeps" / name
    shutil.rmtree(path, ignore_errors=True)
    return Run(create.create(composed, plan, path))


def with_losses(run: Run, losses: dict[int, float]) -> Run:
    """The trial as if it had reported these held-out losses."""
    events = (
        {"event": "metric", "stage": "train", "at": at, "values": {"eval_loss": loss}} for at, loss in losses.items()
    )
    (run.folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))
    return run
