"""Pages that grow while runs are in progress: their parts, of which the browser replaces those that changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from runner.record.report.page import Document, Section
from runner.ui import pages, web
from runner.ui.web import Response


@dataclass(frozen=True)
class View:
    """A document that is shown; `active` as long as it may change, `tools` the links and buttons below its head."""

    document: Document
    active: bool
    tools: dict[str, Any]

    def parts(self) -> dict[str, str]:
        """The parts of the page as HTML by name, in their order."""
        sections = [section for section in self.document.sections if section.data]
        head = pages.render("head.html", document=self.document, sections=sections, tools=self.tools)
        return {"head": head, **{section.name: _part(section) for section in sections}}


def _part(section: Section) -> str:
    return pages.render("section.html", section=section)


def page(view: View, address: str) -> Response:
    """The page of a view; a script asks `address` for its parts while it is active."""
    parts = {name: Markup(part) for name, part in view.parts().items()}
    live = address if view.active else ""
    return pages.page("live.html", title=view.document.title, parts=parts, live=live)


def parts(view: View) -> Response:
    """What the script of the page gets."""
    return web.as_json({"active": view.active, "parts": view.parts()})
