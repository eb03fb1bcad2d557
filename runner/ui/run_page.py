"""The page of a run: its report, which grows while it is in progress, with the plan, the log and what to do next."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from runner import targets
from runner.commands.progress import last_progress
from runner.commands.summary import as_argument, next_commands
from runner.execute.run_folder import ENDED
from runner.metrics import duration
from runner.record.report import single
from runner.record.report.page import Section
from runner.record.runs import AWAY, Run, Snapshot
from runner.ui import live, picture, web
from runner.ui.live import View
from runner.ui.site import Site
from runner.ui.web import Request, Response, Routes

_LINES = 200  # of a log
_LONGEST_TAIL = 2**18  # bytes of a log that are read
_RESULTS = ("training", "evaluation", "samples")  # sections of the report that stand before the log
_OVER = (*ENDED, "pruned", "killed")


def _page(request: Request) -> Response:
    run = request.site.run(request.rest)
    return live.page(_view(request.site, run), f"/api/runs/{quote(run.name)}")


def _parts(request: Request) -> Response:
    return live.parts(_view(request.site, request.site.run(request.rest)))


def _view(site: Site, run: Run) -> View:
    run = Snapshot(run.folder)
    state, reason = state_of(site, run)
    document = single.document(run)
    facts = [("State", f"{state}: {reason}" if reason else state), *document.facts[1:]]
    active = state not in _OVER
    results = [section for section in document.sections if section.name in _RESULTS]
    rest = [section for section in document.sections if section.name not in _RESULTS]
    sections = [
        Section("progress", "In progress", _progress(run) if active else None),
        Section("plan", "Plan", {"picture": picture.draw(run.steps, run.stages())}),
        *results,
        Section("log", "Log", {"stages": [step.stage for step in run.steps], "run": run.name, "active": active}),
        Section("next", "Next", {"commands": _commands(run, state)}),
        *rest,
    ]
    return View(dataclasses.replace(document, facts=facts, sections=sections), active, _tools(run, active))


def state_of(site: Site, run: Run) -> tuple[str, str]:
    """The state of a run, of one elsewhere as its machine reported it last; and why, where there is a reason."""
    row = {"state": run.state, "reason": ""}
    if row["state"] == AWAY:
        site.machines.complete({Run(run.folder): row})
    return row["state"], row["reason"]


def _progress(run: Run) -> dict[str, Any]:
    now = last_progress(run.events())
    left = "" if now.seconds_left is None else duration(now.seconds_left)
    loss = "" if now.loss is None else f"{now.loss:.4g}"
    return {**asdict(now), "left": left, "loss": loss}


def _commands(run: Run, state: str) -> list[str]:
    name = as_argument(run)
    if state == "finished":
        return next_commands(run)
    if state in _OVER:
        return [f"runner show {name}", f"runner logs {name}"]
    return [f"runner attach {name}", f"runner logs -f {name}", f"runner cancel {name}"]


def _tools(run: Run, active: bool) -> dict[str, Any]:
    sweep = run.folder.parent.name if run.sweep else ""
    again = [("recipe", run.manifest["recipe"]), *(("override", text) for text in run.manifest["overrides"])]
    return {
        "links": [
            ("Report", f"/report?{urlencode([('run', run.name)])}"),
            *([(f"Sweep {sweep}", f"/sweeps/{quote(sweep)}")] if sweep else []),
            ("Start again with changes", f"/start?{urlencode(again)}"),
        ],
        "cancel": f"/api/cancel/{quote(run.name)}" if active else "",
    }


def _log(request: Request) -> Response:
    run = request.site.run(request.rest)
    lines, name = log_tail(run, request.first("stage") or None)
    return web.as_json({"stage": name, "lines": lines})


def log_tail(run: Run, stage: str | None) -> tuple[list[str], str]:
    """The last lines of a stage's output (default: the stage in progress) and its name; asks the machine if needed."""
    name = stage if stage in run.stages() else next(reversed(run.stages()), "")
    file = run.folder / "logs" / f"{name}.log"
    if file.is_file():
        return _tail(file), name
    lines = deque(targets.of_run(run).log(run, name or None, live=False), maxlen=_LINES)
    return [line.decode(errors="replace") for line in lines], name


def _tail(file: Path) -> list[str]:
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LONGEST_TAIL))
        return stream.read().decode(errors="replace").splitlines()[-_LINES:]


ROUTES: Routes = {
    ("GET", "/runs/*"): _page,
    ("GET", "/api/runs/*"): _parts,
    ("GET", "/api/log/*"): _log,
}
