"""A run with everything a report tells, made by the real executor from steps that only write files and events."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.compose.recipe import compose
from runner.execute.executor import execute
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

# argv: the output folder, its files as JSON, the events as JSON.
PROGRAM = """
import json, os, pathlib, sys
for name, text in json.loads(sys.argv[2]).items():
    (pathlib.Path(sys.argv[1]) / name).write_text(text)
with open(os.environ["RUNNER_EVENTS"], "a") as stream:
    for event in json.loads(sys.argv[3]):
        stream.write(json.dumps({"time": 1.0, "stage": os.environ["RUNNER_STAGE"], **event}) + "\\n")
"""
STATISTICS = {"examples": 90, "sequences": 30, "tokens": 7000, "label_tokens": 2100, "truncated": 0, "dropped": 1}


def trained_run(
    folder: Path, *overrides: str, key: str = "1", steps: range = range(1, 13), accuracy: float = 0.75,
    samples: list[dict[str, Any]] | None = None, fails: bool = False, trial: str = "",
    evaluations: Sequence[tuple[int, float]] = (),
) -> Run:  # fmt: skip
    """A run in folder/runs: tokenize, train over `steps`, evaluate; `key` makes its artifacts its own.

    A `trial` is SWEEP/NUMBER, in folder/runs/sweeps. `evaluations` are held-out losses by step, the best one is kept.
    """
    composed = compose("quickstart", [f"paths.runs={folder}/runs", f"paths.store={folder}/store", *overrides])
    training = {"steps": steps[-1], "loss": 1 / steps[-1], "tokens": 6144, "label_tokens": 2000, "seconds": 61.0}
    held_out = [{"event": "metric", "at": at, "values": {"eval_loss": loss}} for at, loss in evaluations]
    if evaluations:
        training["best_step"] = min(evaluations, key=lambda evaluation: evaluation[1])[0]
    made = {
        "tokenize": ({"statistics.json": {"seq_len": 256, "train": STATISTICS, "eval": STATISTICS}}, []),
        "train": (
            {"training.json": {**training, "eval_loss_start": 1.5, "eval_loss_end": 0.4}},
            [*map(metric, steps), *held_out, {"event": "log", "level": "warning", "message": "3 rows are <long>"}],
        ),
        "evaluate": ({"report.json": evaluation(accuracy), "samples.jsonl": samples or [sample()]}, []),
    }
    broken = Step("export", "gather", f"export-{key}", (sys.executable, "-c", "exit('no & good')"), {}, True, False)
    plan = [step(folder / "store", stage, f"{stage}-{key}", *outcome) for stage, outcome in made.items()]
    asked = Plan("quickstart", str(folder / "store"), tuple([*plan[:2], broken] if fails else plan))
    place = create.create(composed, asked, folder / "runs" / "sweeps" / trial if trial else None)
    assert execute(asked.as_json(), place) == (1 if fails else 0)
    return Run(place)


def step(store: Path, stage: str, key: str, files: dict[str, Any], events: list[dict[str, Any]]) -> Step:
    texts = {name: content(value) for name, value in files.items()}
    output = str(store / "partial" / key)
    argv = (sys.executable, "-c", PROGRAM, output, json.dumps(texts), json.dumps(events))
    return Step(stage, f"do {stage}", key, argv, {}, True, False)


def content(value: Any) -> str:
    return "".join(json.dumps(line) + "\n" for line in value) if isinstance(value, list) else json.dumps(value)


def metric(at: int) -> dict[str, Any]:
    values = {"loss": 1 / at, "learning_rate": 1e-3 * at, "grad_norm": 2.0, "tokens_per_second": 1000.0 + at}
    return {"event": "metric", "at": at, "values": values}


def evaluation(accuracy: float) -> dict[str, Any]:
    base = {"loss": 1.5, "perplexity": 4.48, "exact_match": 0.0, "execution_accuracy": 0.125}
    adapter = {"loss": 0.4, "perplexity": 1.49, "exact_match": 0.5, "execution_accuracy": accuracy}
    return {"examples": 16, "base": base, "adapter": adapter}


def sample(text: str = "SELECT 1", base: bool = False, adapter: bool = True) -> dict[str, Any]:
    """An example with `text` in every place that a page shows, and whether each side is right."""
    sides = {"base": {"text": text, "correct": base}, "adapter": {"text": text, "correct": adapter}}
    return {"prompt": text, "reference": text, **sides}
