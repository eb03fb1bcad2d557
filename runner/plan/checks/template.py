"""The columns that a prompt template names, by the rules of scripts/common/data/template.py, which renders it."""

from __future__ import annotations

import re
from collections.abc import Collection

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_NAME = re.compile(r"""[^"':;,=<>|\\\n]*\w[^"':;,=<>|\\\n]*""")


class AmbiguousBraces(ValueError):
    """Braces that can be read in two ways."""


def names(text: str, columns: Collection[str]) -> list[str]:
    """The names in braces that are columns, or that look like one.

    Raises AmbiguousBraces for a text with both single and doubled literal braces.

    >>> names('{q?} {{b}} {typo}', ["q?", "b"]), names('{"a": 1}', ["b"])
    (['q?', 'typo'], [])
    """
    placeholders, kinds = [], set()
    for brace in _BRACES.finditer(text):
        name = brace[1]
        if name and (name in columns or _NAME.fullmatch(name)):
            placeholders.append(name)
        else:
            kinds.add(brace[0] in ("{{", "}}"))
    if len(kinds) > 1:
        raise AmbiguousBraces(f"{text!r} mixes single braces with {{{{ or }}}}; double every literal brace")
    return placeholders


def has_placeholder(text: str) -> bool:
    """Whether a text may name a column, for some set of columns."""
    return any(_BRACES.findall(text))
