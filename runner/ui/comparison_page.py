"""Several runs beside each other: those that were ticked, or the trials of a sweep, ranked by its objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from runner.commands.sweep.remaining import time_left
from runner.execute.run_folder import SWEEP
from runner.record import runs
from runner.record.report import comparison
from runner.record.report.page import Document
from runner.record.runs import ACTIVE, Run, Snapshot
from runner.ui import live
from runner.ui.errors import BadRequest, not_found
from runner.ui.live import View
from runner.ui.web import Request, Response, Routes


def _compare(request: Request) -> Response:
    return live.page(_ticked(request), f"/api/compare?{_as_query(request.query.get('run', []))}")


def _compare_parts(request: Request) -> Response:
    return live.parts(_ticked(request))


def _ticked(request: Request) -> View:
    names = request.query.get("run", [])
    if len(names) < 2:
        raise BadRequest("tick two or more runs to compare them")
    return _view([request.site.run(name) for name in names])


def _sweep(request: Request) -> Response:
    return live.page(_trials(request), f"/api/sweeps/{quote(request.rest)}")


def _sweep_parts(request: Request) -> Response:
    return live.parts(_trials(request))


def _trials(request: Request) -> View:
    folder = request.site.folder / "sweeps" / request.rest
    if "/" in request.rest or request.rest in ("", ".", "..") or not (folder / SWEEP).is_file():
        raise not_found(f"{request.rest}: no such sweep")
    trials = runs.readable(runs.every(folder), Run.check)
    if not trials:
        raise not_found(f"{request.rest}: no trial of this sweep has started yet")
    view = _view(trials)
    return dataclasses.replace(view, document=_of_sweep(view.document, folder.name, trials))


def _of_sweep(document: Document, name: str, trials: Sequence[Run]) -> Document:
    sweep = trials[0].sweep
    assert sweep
    planned = sweep.get("trials", len(trials))
    facts = [
        ("Objective", f"{sweep['objective']}, {sweep['direction']}"),
        ("Trials", f"{len(trials)} of {planned} started"),
        ("Left", time_left(trials, planned)),
        *document.facts,
    ]
    shown = [(title, value) for title, value in facts if value]
    return dataclasses.replace(document, label=f"Sweep {name}", facts=shown)


def _view(selected: Sequence[Run]) -> View:
    several = [Snapshot(run.folder) for run in selected]
    report = f"/report?{_as_query([run.name for run in several])}"
    active = any(run.state in ACTIVE for run in several)
    return View(comparison.document(several), active, {"links": [("Report", report)], "cancel": ""})


def _as_query(names: Sequence[str]) -> str:
    return urlencode([("run", name) for name in names])


ROUTES: Routes = {
    ("GET", "/compare"): _compare,
    ("GET", "/api/compare"): _compare_parts,
    ("GET", "/sweeps/*"): _sweep,
    ("GET", "/api/sweeps/*"): _sweep_parts,
}
