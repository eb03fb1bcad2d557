"""Every file of this repository that a page, a program or the Makefile names exists. `NAME` and `my_` stand for any."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

from structure import ROOT

_PATH = re.compile(r"(?<![\w/])(?:tests|runner|scripts|configs|recipes|docs)/[\w/]+\.(?:py|yaml|md|css|js)\b")
_OF_ONE_MACHINE = {"configs/local/default.yaml"}  # ignored by git
_OF_A_PROJECT = {"recipes/first.yaml", "configs/dataset/mine.yaml"}  # what `runner init` makes
_SOURCES = ("Makefile", ".ci", "*.md", "*.toml", "*.yaml", "runner/*.py", "scripts/*.py", "tests/*.py")
_EXAMPLES = ("tests/runner/", "tests/data/", "tests/test_")  # tests make files of their own


def named() -> Iterator[tuple[str, str]]:
    """Pairs of a file in git and a path that it names."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *_SOURCES]
    for file in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if not file.startswith(_EXAMPLES) and (ROOT / file).is_file():
            for match in _PATH.finditer((ROOT / file).read_text(encoding="utf-8")):
                yield file, match[0]


def test_every_file_that_is_named_exists() -> None:
    pairs = set(named())
    assert ("Makefile", "tests/structure.py") in pairs
    assert [
        f"{file}: {path}"
        for file, path in sorted(pairs)
        if "NAME" not in path
        and "my_" not in path
        and path not in _OF_ONE_MACHINE | _OF_A_PROJECT
        and not (ROOT / path).exists()
    ] == []


def test_every_test_module_that_a_page_names_exists() -> None:
    modules = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert {
        f"{page.name}: {name}"
        for page in pages
        for name in re.findall(r"\btest_\w+\.py", page.read_text(encoding="utf-8"))
        if name not in modules
    } == set()
