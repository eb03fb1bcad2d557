"""Records of runs for tests: made by the real executor, from steps that only write a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from runner import record
from runner.compose import compose
from runner.execute import execute
from runner.plan import Plan, Step
from runner.runs import Run

WRITE = "import sys, pathlib; f = pathlib.Path(sys.argv[1]) / sys.argv[2]; f.write_text(sys.argv[3])"


def a_run(folder: Path, *overrides: str, stage: str = "train", key: str = "train-1", **figures: float) -> Run:
    """A finished run in folder/runs with one step whose artifact holds `figures` as training.json."""
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store", *overrides])
    store = folder / "store"
    argv = (sys.executable, "-c", WRITE, str(store / "partial" / key), "training.json", json.dumps(figures))
    plan = Plan("quickstart", str(store), (Step(stage, "train", key, argv, {}, True, False),))
    made = record.create(composed, plan)
    assert execute(plan.as_json(), made) == 0
    return Run(made)
