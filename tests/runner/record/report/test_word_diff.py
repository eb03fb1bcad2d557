"""Words of an answer that are not in its reference."""

from __future__ import annotations

import pytest

from runner.record.report.word_diff import pieces

REFERENCE = "SELECT COUNT(*) FROM t WHERE age > 3"


@pytest.mark.parametrize(
    ("text", "differing"),
    [
        (REFERENCE, []),
        ("SELECT COUNT(*) FROM t WHERE age >= 3", ["="]),
        ("SELECT name FROM t", ["name"]),
        ("이름은?", ["이름은?"]),
        ("", []),
    ],
)
def test_the_pieces_are_the_text_and_mark_what_differs(text: str, differing: list[str]) -> None:
    found = pieces(text, REFERENCE)
    assert "".join(piece for piece, _ in found) == text
    assert [piece for piece, differs in found if differs] == differing


def test_a_very_long_text_is_not_compared() -> None:
    text = "word " * 5000
    assert pieces(text, REFERENCE) == [(text, False)]
