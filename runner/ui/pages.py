"""HTML pages: templates/layout.html around the template of a page, in the style of the report."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runner.ui.errors import not_found
from runner.ui.web import Request, Response, Routes

# The pages in the head of every page: address, title.
NAVIGATION = (
    ("/", "Runs"),
    ("/start", "Start a run"),
    ("/playground", "Playground"),
)

STATIC = "/static/"  # where styles and scripts are

_STATIC = Path(__file__).with_name("static")
_OF_REPORT = Path(__file__).parents[1] / "record" / "report" / "templates"
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FILES = {file.name: file for folder in (_STATIC, _OF_REPORT) for file in folder.iterdir() if file.suffix in _KINDS}
_ENVIRONMENT = Environment(
    loader=ChoiceLoader([PackageLoader("runner.ui"), PackageLoader("runner.record.report")]),
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.globals["linked"] = lambda run: Markup('<a href="/runs/{}"><code>{}</code></a>').format(quote(run), run)


def page(template: str, *, title: str, here: str = "", status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Response:
    """The page of a template. `here` is its address in NAVIGATION; `values` are what the template shows."""
    return Response(render(template, title=title, here=here, navigation=NAVIGATION, **values).encode(), status=status)


def render(template: str, **values: Any) -> str:
    """A template, or a part of a page, with its values; all of them are escaped."""
    return _ENVIRONMENT.get_template(template).render(**values)


def _static(request: Request) -> Response:
    file = _FILES.get(request.rest)
    if not file:
        raise not_found(f"{request.path}: no such file")
    return Response(file.read_bytes(), _KINDS[file.suffix])


ROUTES: Routes = {("GET", f"{STATIC}*"): _static}
