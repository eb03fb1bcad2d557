"""One self-contained HTML file about one run, or about several side by side. It needs no network to be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from runner.errors import RecipeError
from runner.execute import files, run_folder
from runner.record.report import comparison, page, single
from runner.record.runs import Run, Snapshot, every

_FILE = "report.html"  # in the folder of a run or sweep


def default_path(runs: Sequence[Run], folder: Path) -> Path:
    """Where a report is written by default: in the folder of the run or sweep, else in `folder`/reports."""
    if len(runs) == 1:
        return runs[0].folder / _FILE
    sweep = runs[0].folder.parent
    if (sweep / run_folder.SWEEP).is_file() and {run.folder for run in runs} == {run.folder for run in every(sweep)}:
        return sweep / _FILE
    names = " ".join(sorted(run.name for run in runs))
    return folder / "reports" / f"{len(runs)}-runs-{hashlib.sha256(names.encode()).hexdigest()[:8]}.html"


def write(runs: Sequence[Run], path: Path) -> Path:
    """Write the report of one run, or the comparison of several, to `path`; returns it.

    A comparison links to the reports of its runs, which are written too. The folder of `path` is made where it is
    missing. A file appears complete or not at all.
    """
    linked = {run.name: _link(_own_report(run), path) for run in runs} if len(runs) > 1 else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.write_atomic(path, page.render(document(runs), linked))


def document(runs: Sequence[Run]) -> page.Document:
    """The report of one run, or the comparison of several."""
    return single.document(Snapshot(runs[0].folder)) if len(runs) == 1 else comparison.document(runs)


def check_free(runs: Sequence[Run], path: Path) -> None:
    """Raises RecipeError if there is something at `path` that is not an earlier report of any of these runs."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if page.reported(text).isdisjoint(run.name for run in runs):
        raise RecipeError(f"{path}: exists, and is no report of {runs[0].name}; name another --output")


def _own_report(run: Run) -> Path:
    """The report of a run in its folder, written again if the run has gone on since."""
    path = run.folder / _FILE
    if path.exists() and path.stat().st_mtime >= run.last_event:
        return path
    return write([run], path)


def _link(target: Path, page_path: Path) -> str:
    return quote(Path(os.path.relpath(target, page_path.parent)).as_posix())
