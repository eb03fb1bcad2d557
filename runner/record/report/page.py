"""The page around a report's sections: title, verdict, navigation, style and script."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import unescape
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_MARKER = re.compile(r'<meta name="report-of" content="([^"]*)">')


@dataclass(frozen=True)
class Verdict:
    """The outcome in one sentence: `text`, then a value or `before` → `after`; below it a `reason` or a `lead`."""

    text: str
    before: str | None = None
    after: str | None = None
    bad: bool = False
    reason: str | None = None
    lead: str | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor and heading, and the template in sections/ that shows its `data`.

    A section without data is left out.
    """

    name: str
    heading: str
    data: Any
    template: str = ""

    @property
    def path(self) -> str:
        """The path of the template, by default of the section's name."""
        return f"sections/{self.template or self.name}.html"


@dataclass(frozen=True)
class Document:
    """A report: the names of its runs, its subject, its verdict, some facts, and its sections."""

    runs: Sequence[str]
    title: str
    label: str
    verdict: Verdict
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def reported(text: str) -> set[str]:
    """The names of the runs that a page says it is the report of; none for any other text."""
    found = _MARKER.search(text)
    return set(unescape(found[1]).split()) if found else set()


@cache  # a sweep has hundreds of pages, and compiling the templates takes longer than filling them
def _environment() -> Environment:
    loader = PackageLoader("runner.record.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(document: Document, links: Mapping[str, str] = MappingProxyType({})) -> str:
    """The whole page; `links` are the addresses of pages about its runs, by name.

    Its content policy lets nothing load, and no script run but the page's own.
    """
    environment = _environment()
    folder = files("runner.record.report") / "templates"
    script, style = (Markup((folder / name).read_text(encoding="utf-8")) for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = [section for section in document.sections if section.data]
    page = environment.get_template("page.html")

    def linked(run: str) -> Markup:
        name = Markup("<code>{}</code>").format(run)
        return Markup('<a href="{}">{}</a>').format(links[run], name) if run in links else name

    return page.render(
        linked=linked, document=document, sections=sections, style=style, script=script, script_digest=digest
    )
