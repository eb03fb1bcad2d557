"""The list of runs."""

from __future__ import annotations

from runner.ui import pages
from runner.ui.web import Request, Response, Routes


def _page(request: Request) -> Response:
    return pages.page("run_list.html", title="Runs", here="/")


ROUTES: Routes = {("GET", "/"): _page}
