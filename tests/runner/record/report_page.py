"""A report as a browser would read it."""

from __future__ import annotations

import html.parser
from pathlib import Path

from runner.record import report
from runner.record.runs import Run


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    VOID = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(folder: Path, *runs: Run) -> Page:
    """The report of some runs, in which every element is closed."""
    page = Page(report.write(list(runs), folder / "out" / "report.html"))
    assert page.open == []
    return page
