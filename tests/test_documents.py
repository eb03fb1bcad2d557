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
from tests.data.pictures import make as pictures

# Those of a translation are the original's: test_translations.py.
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if ".ko." not in page.name)]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`runner ([^`]+)`")
_COMMAND = re.compile(r"^(?:\.venv/bin/)?runner (.+)", re.M)
_SAMPLE = re.compile(r"^\$ runner (.+)\n((?:(?!\$ ).*\n)+)", re.M)
_MAKE = re.compile(r"(?:^\$? ?|`)make ([\w-]+)", re.M)
_ASSIGNED = re.compile(r'^(\w+)="([^"]*)"', re.M)
_ENDS = {"|", ";", "&&", ">", ">>", "&"}  # a shell's, not the command's
_COMPOSED = ("run", "plan", "data", "doctor")
# What the reader fills in, and what only Hydra reads: a sweep's values and flags.
_NOT_COMPOSED = re.compile(r"\b[A-Z]{2,}\b|\.\.\.|\$|rows\.jsonl|my-|^-| -|[\w.]+=[^\[{ ]*,|hydra")


def blocks(page: Path) -> Iterator[str]:
    """The code of a page, with lines joined that a backslash continues."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        yield block.replace("\\\n", " ")


def commands(page: Path) -> Iterator[str]:
    """What follows `runner` in the blocks and in the text of a page. A variable of the page has each of its values."""
    text = page.read_text(encoding="utf-8")
    written = [line for block in blocks(page) for line in _COMMAND.findall(block)]
    written += [found.replace("\n", " ") for found in _INLINE.findall(text) if " " in found]
    for line in written:
        assigned = [[(name, value) for _, value in values] for name, values in _values(text) if f"${name}" in line]
        for chosen in itertools.product(*assigned):
            yield _with_values(line, chosen)


def _values(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    pairs = sorted(_ASSIGNED.findall(text))
    return [(name, list(found)) for name, found in itertools.groupby(pairs, key=lambda pair: pair[0])]


def _with_values(line: str, chosen: tuple[tuple[str, str], ...]) -> str:
    for name, value in chosen:
        line = line.replace(f"${name}", value)
    return line


def arguments(line: str) -> list[str]:
    return list(itertools.takewhile(lambda word: word not in _ENDS, shlex.split(line.rstrip("\\"), comments=True)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse_and_their_recipes_compose(page: Path) -> None:
    problems = []
    for line in commands(page):
        words = arguments(line)
        try:
            args = cli._arguments(words)
            if words[0] in _COMPOSED and args.recipe in recipe_names() and not _NOT_COMPOSED.search(" ".join(words)):
                compose(args.recipe, args.overrides)
        except SystemExit as end:  # --help
            assert end.code == 0
        except Exception as error:
            problems.append(f"{line}: {error}")
    assert problems == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_commands_and_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {found.split()[0] for found in _INLINE.findall(text)} <= {*cli.COMMANDS, "--help", "--version", "COMMAND"}
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {*_MAKE.findall(text)} <= {*targets}


SAMPLES = [
    pytest.param(line, output, id=f"{page.name}-{line}")
    for page in PAGES
    for block in blocks(page)
    for line, output in _SAMPLE.findall(block)
]


@pytest.mark.parametrize(("line", "output"), SAMPLES)
def test_a_command_prints_what_stands_below_it(tmp_path: Path, line: str, output: str) -> None:
    command = [sys.executable, "-m", "runner", *arguments(line)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    printed = {" ".join(text.split()) for text in (done.stdout + done.stderr).splitlines()}
    for text in output.splitlines():
        assert any(one.startswith(" ".join(text.split())) for one in printed), f"{text}\nnot in:\n{done.stdout}"


def test_the_picture_of_the_quickstart_is_of_its_output() -> None:
    assert pictures.PICTURE.read_text(encoding="utf-8") == pictures.picture(), "run make golden"
    assert "font-face" not in pictures.picture()
