"""One self-contained HTML file about one run, or about several side by side. It needs no network to be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.execute import files
from runner.record.report import comparison, page, single
from runner.record.runs import Run


def default_path(runs: Sequence[Run]) -> Path:
    """Where a report is written by default: into the folder of the one run, or into the current folder."""
    return runs[0].folder / "report.html" if len(runs) == 1 else Path("report.html")


def write(runs: Sequence[Run], path: Path) -> Path:
    """Write the report of one run, or the comparison of several, to `path`; returns it.

    The folder of `path` is made where it is missing. The file appears complete or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.write_atomic(path, page.render(document(runs)))


def document(runs: Sequence[Run]) -> page.Document:
    """The report of one run, or the comparison of several."""
    return single.document(runs[0]) if len(runs) == 1 else comparison.document(runs)
