"""Which words of an answer are not in its reference."""

from __future__ import annotations

import difflib
import re

_MOST_WORDS = 2000  # of a text that is compared; the time grows with their square


def pieces(text: str, reference: str) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it differs from the reference; together they are the text.

    >>> pieces("SELECT a FROM t", "SELECT b FROM t")
    [('SELECT ', False), ('a', True), (' FROM t', False)]
    """
    words, others = (re.findall(r"\w+|\s+|[^\w\s]", side) for side in (text, reference))
    if max(len(words), len(others)) > _MOST_WORDS:
        return [(text, False)]
    changes = difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes()
    found = (("".join(words[start:end]), kind != "equal") for kind, start, end, _, _ in changes)
    return [(piece, differs) for piece, differs in found if piece]
