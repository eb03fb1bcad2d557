"""The summary of a run: base model against adapter, a sample, and where the files are."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.commands import tables
from runner.metrics import EVALUATION, served
from runner.record.runs import Run


def show(run: Run, console: Console) -> None:
    """Print the summary of a run."""
    report = run.result("evaluate", "report.json")
    if report:
        console.print(_comparison(report))
        _show_sample(run.folder / "artifacts" / "evaluate" / "samples.jsonl", console)
    smoke = run.result("serve", "smoke.json")
    if smoke:
        console.print(Text(f"served: {served(smoke)}"))
    for name, path in _places(run.folder):
        console.print(Text(f"{name:<8} {_short(path)}"), soft_wrap=True)


def _comparison(report: dict[str, Any]) -> Table:
    title = f"{report['examples']} held-out examples"
    table = tables.table("", "base", "adapter", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metric in EVALUATION.items():
        if name in report["base"]:
            table.add_row(metric.title, *(metric.text(report[side][name]) for side in ("base", "adapter")))
    return table


def _show_sample(path: Path, console: Console) -> None:
    """Print the first example that the adapter answers exactly, or else the first of all."""
    with path.open(encoding="utf-8") as lines:
        samples = [json.loads(line) for line in itertools.islice(lines, 50)]
    best = max(samples, key=lambda sample: sample["adapter"]["text"].strip() == sample["reference"].strip())
    for side, text in (
        ("prompt", best["prompt"]),
        ("base", best["base"]["text"]),
        ("adapter", best["adapter"]["text"]),
    ):
        indented = text.strip().replace("\n", "\n" + " " * 9)
        console.print(Text(f"{side:<8} {indented[:400]}", style="" if side == "adapter" else "dim"), soft_wrap=True)
    console.print()


def _places(run: Path) -> list[tuple[str, Path]]:
    paths = {
        "adapter": run / "artifacts" / "export" / "adapter",
        "merged": run / "artifacts" / "export" / "merged",
        "samples": run / "artifacts" / "evaluate" / "samples.jsonl",
        "run": run,
    }
    return [(name, path) for name, path in paths.items() if path.exists()]


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
