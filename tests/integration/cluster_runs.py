"""Runs on a cluster whose nodes share a folder; their steps are a few lines of Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runner import targets
from runner.compose.recipe import compose
from runner.paths import ROOT
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

SHORT = ["evaluate=none", "serve=none", "train.max_steps=3", "dataset.train_rows=60"]
# argv: the output folder. Counts its starts; ends at the second one, or when the file `end` is in the working folder.
START_TWICE = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
starts = len(list(folder.glob("start-*"))) + 1
(folder / f"start-{starts}").touch()
print("start", starts, flush=True)
while starts == 1 and not pathlib.Path("end").exists():
    time.sleep(0.05)
(folder / "training.json").write_text('{"starts": %d}' % starts)
"""
ENDS = "import pathlib, sys; pathlib.Path(sys.argv[1], 'training.json').write_text('{}')"


def a_run(work: Path, programs: dict[str, str], *words: str, key: str = "1") -> Run:
    """A recorded run whose stages are the `programs`, and their artifacts STAGE-KEY."""
    composed = compose("quickstart", [*words, f"paths.runs={work}/runs"])
    steps = tuple(
        Step(
            stage, stage, f"{stage}-{key}", (sys.executable, "-c", text, f"store/partial/{stage}-{key}"), {}, True, True
        )
        for stage, text in programs.items()
    )
    plan = targets.of(composed.recipe.target).assign(Plan(composed.recipe.name, "store", steps))
    return Run(create.create(composed, plan))


def there(work: Path, run: Run) -> Path:
    return work.parent / "shared" / "runs" / run.name


def started(run: Run) -> Iterator[bytes]:
    """The events of a run, started and begun."""
    target = targets.of_run(run)
    target.start(run, attached=False)
    stream = target.follow(run)
    for line in stream:
        if json.loads(line).get("state") == "begun":
            break
    return stream


def last(stream: Iterator[bytes]) -> str:
    return json.loads(list(stream)[-1])["state"]


def until_line(run: Run, text: str) -> None:
    """Wait until a stage has printed it."""
    lines = targets.of_run(run).log(run, None, live=True)
    assert any(text.encode() in line for line in lines)


def command_here(work: Path, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-u", "-m", "runner", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(argv, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def most_at_once(runs: list[Path]) -> int:
    """Runs under way together, by their own clocks."""
    marks = []
    for run in runs:
        times = [json.loads(line)["time"] for line in (run / "events.jsonl").read_text().splitlines()]
        marks += [(times[0], 1), (times[-1], -1)]
    at_once = most = 0
    for _, change in sorted(marks):
        at_once += change
        most = max(most, at_once)
    return most
