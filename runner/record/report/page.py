"""The page around a report's sections: title, style, script, navigation."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.record.report.markup import Html, joined, tag

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of the page. `name` is its anchor."""

    name: str
    heading: str
    content: Html


@dataclass(frozen=True)
class Document:
    """A report: what it is about, its verdict in one sentence, and the sections that there are."""

    title: str
    label: str
    verdict: Html
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section | None]


def render(document: Document) -> str:
    """The whole page. Its content policy lets nothing load, and no script run but the page's own."""
    sections = [section for section in document.sections if section]
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", document.title),
        tag("style", Html((_HERE / "report.css").read_text(encoding="utf-8"))),
    )
    main = tag("main", *(_section(section) for section in sections))
    body = tag("body", _header(document), _navigation(sections), main, tag("script", Html(script)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _header(document: Document) -> Html:
    facts = (tag("div", tag("dt", name), tag("dd", value)) for name, value in document.facts)
    return tag(
        "header",
        tag("p", document.label, class_="label"),
        tag("h1", document.title),
        document.verdict,
        tag("dl", *facts, class_="facts"),
    )


def _navigation(sections: Sequence[Section]) -> Html:
    links = (tag("a", section.heading, href=f"#{section.name}") for section in sections)
    return tag("nav", *links, aria_label="Sections")


def _section(section: Section) -> Html:
    return tag("section", tag("h2", section.heading), joined([section.content]), id=section.name)
