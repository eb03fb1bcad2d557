"""The held-out examples of the runs that a server serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.commands.serve.servers import Server
from runner.record import runs
from runner.record.runs import Run

_FILE = Path("artifacts", "tokenize", "eval.jsonl")


def file_of(server: Server, folder: Path) -> Path | None:
    """The held-out rows of the run whose adapter is served; None where they are not on this machine.

    `folder` is the folder of run records.
    """
    return next((run.folder / _FILE for run in _trained(server, folder) if (run.folder / _FILE).is_file()), None)


def _trained(server: Server, folder: Path) -> Iterator[Run]:
    """The run of the server, and those whose adapter is in its command line, newest first."""
    yield server.run
    command = " ".join(arg for step in server.run.plan["steps"] for arg in step["argv"])
    for run in reversed(runs.readable(runs.every(folder), lambda run: run.plan)):
        if any(step["stage"] == "export" and step["key"] in command for step in run.plan["steps"]):
            yield run


def example(file: Path, number: int) -> dict[str, Any]:
    """A held-out row: its `fields`, the `reference`, of a chat the `turns` before it, its `number` and the `count`.

    Numbers begin again at the end.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    place = number % len(lines)
    row = json.loads(lines[place])
    return {
        "fields": row["fields"], "reference": row["response"], "turns": row.get("messages", []), "number": place,
        "count": len(lines),
    }  # fmt: skip
