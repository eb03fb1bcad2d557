"""The summary of a run: base model against adapter, a sample, and where the files are."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.commands import tables
from runner.metrics import compared, served
from runner.record.runs import Run

_LONGEST_SAMPLE = 400  # characters
_MOST_SAMPLES = 50  # among which one is looked for that the adapter answers exactly


def show(run: Run, console: Console) -> None:
    """Print the summary of a run."""
    report = run.result("evaluate", "report.json")
    if report:
        console.print(_comparison(report))
        _show_sample(run.samples(_MOST_SAMPLES), console)
    smoke = run.result("serve", "smoke.json")
    if smoke:
        tables.say(console, f"served: {served(smoke)}", indent=len("served: "))
    for name, path in _places(run):
        console.print(Text(f"{name:<8} {_short(path)}"), soft_wrap=True)


def show_next(run: Run, console: Console) -> None:
    """Print what to do with a run that trained an adapter."""
    for number, command in enumerate(next_commands(run)):
        console.print(Text(f"{'' if number else 'next':<8} {command}"), soft_wrap=True)


def next_commands(run: Run) -> list[str]:
    """What to type next about a run that finished."""
    stages = {step["stage"] for step in run.plan["steps"]}
    name = as_argument(run)
    commands = {"evaluate": [f"runner report {name}"], "export": [f"runner serve {name} --detach", "runner ask"]}
    return [command for stage, several in commands.items() if stage in stages for command in several]


def as_argument(run: Run) -> str:
    """How to name a run on a command line in the current folder."""
    return run.name if run.folder.parent == Path("runs").absolute() else shlex.quote(_short(run.folder))


def _comparison(report: dict[str, Any]) -> Table:
    title = f"{report['examples']} held-out examples"
    table = tables.table("", "base", "adapter", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for metric, *values in compared(report):
        table.add_row(metric.title, *map(metric.text, values))
    return table


def _show_sample(samples: list[dict[str, Any]] | None, console: Console) -> None:
    """Print the first example that the adapter answers exactly, or else the first of all."""
    if not samples:
        return
    best = max(samples, key=lambda sample: sample["adapter"]["text"].strip() == sample["reference"].strip())
    for side, text in (
        ("prompt", best["prompt"]),
        ("base", best["base"]["text"]),
        ("adapter", best["adapter"]["text"]),
    ):
        tables.say_labelled(console, side, text.strip()[:_LONGEST_SAMPLE], "" if side == "adapter" else "dim")
    console.print()


def _places(run: Run) -> list[tuple[str, Path]]:
    paths = {
        "adapter": run.folder / "artifacts" / "export" / "adapter",
        "merged": run.folder / "artifacts" / "export" / "merged",
        "samples": run.samples_file,
        "run": run.folder,
    }
    return [(name, path) for name, path in paths.items() if path.exists()]


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
