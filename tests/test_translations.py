"""A translated page (NAME.ko.md) has the headings, tables, code, links and figures of its original (NAME.md)."""

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


def shape(page: Path) -> dict[str, Any]:
    """What a page and its translation have in common, whatever their language."""
    text = page.read_text(encoding="utf-8")
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
    translated, original = shape(page), shape(page.with_name(page.name.replace(".ko.md", ".md")))
    for part, expected in original.items():
        assert translated[part] == expected, part


def test_the_pages_that_the_guides_readers_need_are_translated() -> None:
    assert {page.name for page in PAGES} >= {"README.ko.md", "tutorial.ko.md", "guide_trn2.ko.md", "guide_eks.ko.md"}
