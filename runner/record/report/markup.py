"""HTML that is escaped by construction: text becomes markup only by `tag`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Markup that `tag` made; any other text is escaped when it becomes part of an element."""


_EMPTY = frozenset({"input", "meta", "br", "link"})  # elements without an end tag


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` and `for_` stand for class and for, `data_x` for data-x; None leaves an attribute out.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _EMPTY:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Iterable[Any]) -> Html:
    """Parts one after the other: markup as it is, anything else as escaped text, None as nothing."""
    known = (part for part in parts if part is not None)
    return Html("".join(part if isinstance(part, Html) else html.escape(str(part)) for part in known))


def capital(words: str) -> str:
    """With a capital first letter; the others stay as they are."""
    return words[:1].upper() + words[1:]


def table(headings: Sequence[Any], rows: Iterable[Html], **attributes: Any) -> Html:
    """A table that scrolls sideways where it is wider than the page."""
    cells = [heading if isinstance(heading, Html) else tag("th", heading, scope="col") for heading in headings]
    head = tag("thead", tag("tr", *cells)) if cells else None
    return tag("div", tag("table", head, tag("tbody", *rows), **attributes), class_="scroll")


def row(label: Any, *cells: Any, class_: str | None = None) -> Html:
    """A table row: its heading, then cells; markup of a cell is taken as it is."""
    data = [cell if _is_cell(cell) else tag("td", cell) for cell in cells]
    return tag("tr", tag("th", label, scope="row"), *data, class_=class_)


def number(text: Any, class_: str = "") -> Html:
    """A cell of figures, set flush right."""
    return tag("td", text, class_=f"number {class_}".strip())


def _is_cell(cell: Any) -> bool:
    return isinstance(cell, Html) and cell.startswith("<td")


def _attribute(key: str, value: Any) -> str:
    return f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
