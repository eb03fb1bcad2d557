"""The report of one or more runs, as `runner report` writes it, on a page of its own."""

from __future__ import annotations

from runner.record import report
from runner.record.report import page
from runner.ui.errors import BadRequest
from runner.ui.web import Request, Response, Routes

# It brings its own style, script and content policy; in a sandbox it is a stranger to this server.
_SANDBOX = {"Content-Security-Policy": "sandbox allow-scripts"}


def _report(request: Request) -> Response:
    names = request.query.get("run", [])
    if not names:
        raise BadRequest("/report: name a run, as in /report?run=NAME")
    document = report.document([request.site.run(name) for name in names])
    return Response(page.render(document).encode(), headers=_SANDBOX)


ROUTES: Routes = {("GET", "/report"): _report}
