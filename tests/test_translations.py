"""A translated page (NAME.ko.md) has the headings, tables, code, links and figures of its original (NAME.md).

It may end early, at a heading of the original.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structure import ROOT

PAGES = [path for folder in (ROOT, ROOT / "docs") for path in sorted(folder.glob("*.ko.md"))]
_BLOCK = re.compile(r"^```.*?^```", re.M | re.S)
_CODE = re.compile(r"`[^`]+`")
_LINK = re.compile(r"\]\(([^)]+)\)")
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
_COMMENT = re.compile(r"\s+#\s.*$", re.M)


def parts(page: Path) -> list[str]:
    """A page in parts: what stands before the first heading, and each heading with its text."""
    hidden = _BLOCK.sub(lambda block: block[0].replace("\n#", "\n\0#"), page.read_text(encoding="utf-8"))
    return [part.replace("\0", "") for part in re.split(r"^(?=#+ )", hidden, flags=re.M)]


def shape(page: Path, length: int) -> dict[str, Any]:
    """What the first `length` parts of a page and its translation have in common, whatever their language."""
    text = "".join(parts(page)[:length])
    prose = _BLOCK.sub("", text)
    rows = [line.replace("\\|", "").count("|") for line in prose.splitlines() if line.startswith("|")]
    links = {link.replace(".ko.md", ".md") for link in _LINK.findall(prose)} - {page.name.replace(".ko.md", ".md")}
    bare = _LINK.sub("", _CODE.sub("", prose))
    return {
        "headings": [len(mark) for mark in re.findall(r"^(#+) ", prose, re.M)],
        "blocks": [_COMMENT.sub("", block) for block in _BLOCK.findall(text)],
        "tables": rows,
        "code": Counter(code.replace("\n", " ") for code in _CODE.findall(prose)),
        "links": links,
        "figures": Counter(_FIGURE.findall(bare)),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_translation_is_in_step_with_its_original(page: Path) -> None:
    length = len(parts(page))
    translated, original = shape(page, length), shape(page.with_name(page.name.replace(".ko.md", ".md")), length)
    for part, expected in original.items():
        assert translated[part] == expected, part


def test_both_guides_are_translated_to_their_end() -> None:
    whole = {"guide_trn2.md", "guide_eks.md"}
    assert {name for name in whole if _is_whole(ROOT / "docs" / name)} == whole
    assert ROOT / "README.ko.md" in PAGES


def _is_whole(page: Path) -> bool:
    return len(parts(page)) == len(parts(page.with_suffix(".ko.md")))
