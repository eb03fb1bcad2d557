"""The commands in README.md and docs/ are commands of this version, and print what stands below them."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structure import ROOT

from runner import cli
from runner.compose.groups import recipe_names
from runner.compose.recipe import compose

PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`(runner [^`]+)`")
_RUNNER = re.compile(r"^\$?\s*(?:\.venv/bin/|uvx trainium-recipes )?runner\s")
_MAKE = re.compile(r"^\$?\s*make ([\w-]+)")
_ASSIGNED = re.compile(r'^(\w+)="([^"]*)"', re.M)
_STANDS_FOR = re.compile(r"\b[A-Z][A-Z_]+\b|\.\.\.|\$|FOLDER|/opt/|mine\.|rows\.jsonl|my[-_]")  # what a reader fills in
_COMPOSED = ("run", "plan", "data", "doctor")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and text of each block, with lines joined that a backslash or a quotation continues."""
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        yield language, text.replace("\\\n", " ")


def commands(page: Path) -> Iterator[str]:
    """Every `runner ...` of a page: in blocks, and in the text where it has arguments. A variable has each value."""
    text = page.read_text(encoding="utf-8")
    lines = (line for language, block in blocks(page) for line in block.splitlines() if _RUNNER.match(line))
    values: dict[str, list[str]] = {}
    for name, value in _ASSIGNED.findall(text):
        values.setdefault(name, []).append(value)
    for line in itertools.chain(lines, (found.replace("\n", " ") for found in _INLINE.findall(text))):
        names = [name for name in values if f"${name}" in line]
        for chosen in itertools.product(*(values[name] for name in names)):
            written = line
            for name, value in zip(names, chosen, strict=True):
                written = written.replace(f"${name}", value)
            yield written


def arguments(line: str) -> list[str]:
    """The words after `runner`, without a comment, a redirection, and what a shell does next."""
    words = shlex.split(line.lstrip("$ "), comments=True)
    words = words[words.index(next(word for word in words if word.endswith("runner"))) + 1 :]
    return list(itertools.takewhile(lambda word: word not in ("|", ";", "&&", ">", ">>", "&", "\\"), words))


ALL = sorted({(page.name, line) for page in PAGES for line in commands(page)})


def test_there_are_commands() -> None:
    assert len(ALL) > 60


@pytest.mark.parametrize(("page", "line"), ALL)
def test_a_command_parses(page: str, line: str) -> None:
    if "`" in line or "[" in line.split("#")[0].replace("[^", "") and "|" in line:
        pytest.skip("a description of arguments")
    words = arguments(line)
    if not words or words[0] in ("COMMAND", "..."):
        pytest.skip("names no command")
    args = cli._arguments(words)
    if args.command in _COMPOSED and args.recipe in recipe_names() and not _STANDS_FOR.search(" ".join(words)):
        if any(word.startswith("-") or "," in word or "hydra" in word or "=choice" in word for word in words):
            return  # a sweep, or Hydra's own flags
        compose(args.recipe, args.overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = page.read_text(encoding="utf-8")
    named = {match[1] for _, block in blocks(page) for line in block.splitlines() if (match := _MAKE.match(line))}
    assert named | set(re.findall(r"`make ([\w-]+)", text)) <= targets
