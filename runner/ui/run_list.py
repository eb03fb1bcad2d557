"""The list of runs, and the comparison of those that are ticked."""

from __future__ import annotations

from dataclasses import asdict

from runner.ui import pages, web
from runner.ui.web import Request, Response, Routes

# Of the table: what it is sorted by, the heading, its class.
_COLUMNS = (
    ("run", "run", ""), ("state", "state", ""), ("progress", "progress", ""), ("loss", "loss", "number"),
    ("result", "result", ""), ("seconds", "time", "number"), ("started", "started", ""),
)  # fmt: skip


def _page(request: Request) -> Response:
    return pages.page("run_list.html", title="Runs", here="/", columns=_COLUMNS)


def _rows(request: Request) -> Response:
    since = request.first("since", "0")
    return web.as_json(asdict(request.site.index.news(int(since) if since.isdecimal() else 0)))


ROUTES: Routes = {("GET", "/"): _page, ("GET", "/api/runs"): _rows}
