"""The columns that a prompt template names, by the rule of scripts/common/data/template.py, which renders it."""

from __future__ import annotations

import re
from collections.abc import Collection

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_NAME = re.compile(r"""[^"':;,=<>|\\\n]*\w[^"':;,=<>|\\\n]*""")


class AmbiguousBraces(ValueError):
    """Braces that can be read in two ways."""


def names(text: str, columns: Collection[str]) -> list[str]:
    """The columns that `{name}` stands for in a text, and the names that look like one and are none.

    Raises AmbiguousBraces for a text with single braces beside doubled ones.

    >>> names('{q?} {{b}} {typo}', ["q?", "b"]), names('{"a": 1}', ["b"])
    (['q?', 'typo'], [])
    """
    found, kinds = [], set()
    for brace in _BRACES.finditer(text):
        name = brace[1]
        if name and (name in columns or _NAME.fullmatch(name)):
            found.append(name)
        else:
            kinds.add(brace[0] in ("{{", "}}"))
    if len(kinds) > 1:
        raise AmbiguousBraces(f"{text!r} has single braces beside {{{{ or }}}}: write each literal brace twice")
    return found


def has_placeholder(text: str) -> bool:
    """Whether a text may name a column, whatever the columns are called."""
    return any(_BRACES.findall(text))
