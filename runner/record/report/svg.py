"""SVG elements, escaped by construction."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element; children that are not Markup are escaped. `class_` stands for class, `data_x` for data-x.

    >>> str(element("text", "a < b", class_="note"))
    '<text class="note">a &lt; b</text>'
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(map(escape, children)))
