"""The page around a report's sections: title, verdict, navigation, style and script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


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
    """A report: its subject, its verdict, some facts, and its sections."""

    title: str
    label: str
    verdict: Verdict
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def render(document: Document) -> str:
    """The whole page. Its content policy lets nothing load, and no script run but the page's own."""
    loader = PackageLoader("runner.record.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["linked"] = Markup("<code>{}</code>").format
    script, style = (Markup(loader.get_source(environment, name)[0]) for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = [section for section in document.sections if section.data]
    page = environment.get_template("page.html")
    return page.render(document=document, sections=sections, style=style, script=script, script_digest=digest)
