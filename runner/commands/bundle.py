"""The file of `runner doctor --bundle`: what explains a problem to somebody who cannot see the machine.

It is plain text, so that its sender can read it first.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runner.commands import records, version
from runner.errors import RecipeError
from runner.execute import run_folder
from runner.record.redaction import redacted
from runner.record.runs import Run

_HEAD = """What `runner doctor --bundle` found. Secrets that it recognized are written as ***. Read it before you send
it: it has names of machines, users, folders and models, and the ends of logs, which may quote your data.
"""
_RECORD = ("manifest.json", "recipe.yaml", "plan.json", run_folder.JOB, run_folder.EXECUTOR_LOG)
_LAST_LINES = 200  # of each log


def write(findings: str, report: Mapping[str, Any] | None, run: Run | None) -> Path:
    """Write a new file in the current folder, for this user alone; returns its path."""
    now = datetime.now(timezone.utc)
    path = Path(f"runner-bundle-{now:%Y%m%d-%H%M%S}.txt")
    parts = "\n".join(f"== {title} ==\n{text.rstrip()}\n" for title, text in _sections(findings, report, run))
    path.touch(0o600, exist_ok=False)
    path.write_text(redacted(f"{_HEAD}{now:%Y-%m-%d %H:%M:%S} UTC\n\n{parts}"), encoding="utf-8")
    return path


def _sections(findings: str, report: Mapping[str, Any] | None, run: Run | None) -> Iterator[tuple[str, str]]:
    """The titles and texts of the file."""
    yield "version", version.text()
    yield "findings", findings
    yield "machine", json.dumps(report, indent=1, sort_keys=True) if report else "not examined"
    if not run:
        yield "run", "none"
        return
    yield "run", _or_why_not(lambda: json.dumps(records.as_json(run), indent=1))
    for file in (*(run.folder / name for name in _RECORD), *sorted(run.folder.glob("logs/*"))):
        if file.is_file():
            yield str(file.relative_to(run.folder)), _or_why_not(functools.partial(_end, file))


def _end(file: Path) -> str:
    """A file, or the last lines of a log."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LAST_LINES:] if file.suffix == ".log" else lines)


def _or_why_not(text: Callable[[], str]) -> str:
    """A damaged record is a reason to send a bundle, not to write none."""
    try:
        return text()
    except (RecipeError, OSError) as error:
        return f"cannot be read: {error}"
