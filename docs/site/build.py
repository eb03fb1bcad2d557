"""Build the documentation site: build/docs/html. A broken link is an error.

    make docs

The pages are README.md and those of docs/, as they are on a Git host, and a reference, which is written here from the
commands, the keys of a recipe and the stage programs. Sphinx reads all of them from a copy in build/docs/source. The
site asks the network for nothing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from sphinx.cmd.build import build_main

os.environ["COLUMNS"] = "100"  # of the help texts, before anything reads it
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from runner import cli  # noqa: E402
from runner.commands import options  # noqa: E402
from runner.compose.schema import Recipe  # noqa: E402
from runner.compose.validate import keys, section_of  # noqa: E402

DOCS, BUILD = ROOT / "docs", ROOT / "build" / "docs"
# A path through the pages. One that is in no list comes at the end.
NAVIGATION = {
    "Tutorial": ["tutorial", "first_hour"],
    "How to": [
        "data",
        "models",
        "sweeps",
        "ui",
        "remote",
        "clusters",
        "kubernetes",
        "object_storage",
        "serving",
        "scaling",
    ],
    "The guides": ["guide_trn2", "guide_eks", "guide_faults", "faq"],
    "Reference": ["support", "commands", "keys", "programs"],
    "Explanation": ["architecture", "native_pytorch", "reliability", "performance", "alternatives"],
    "Project": ["contributing", "changelog", "security"],
    "한국어": ["index.ko", "tutorial.ko", "guide_trn2.ko", "guide_eks.ko"],
}
_AT_ROOT = {  # pages of the repository's root, by their name on the site
    "README.md": "index", "README.ko.md": "index.ko", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
}  # fmt: skip
_LINK = re.compile(r"(\]\(|^\[[^\]]+\]:\s*)(?:\.\./|docs/)*([^)\s#:]+)", re.M)


def main() -> int:
    """Write the sources and let Sphinx read them; returns its exit status."""
    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for file in DOCS.iterdir():
        if file.suffix in (".md", ".svg", ".txt"):
            shutil.copy(file, source)
    for name, page in _AT_ROOT.items():
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / f"{page}.md")
    pages = {"commands": commands(), "keys": recipe_keys(), "programs": programs()}
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")
    for page in list(source.glob("*.md")):
        page.write_text(_on_the_site(page.read_text(encoding="utf-8"), source), encoding="utf-8")
    with (source / "index.md").open("a", encoding="utf-8") as index:
        index.write(_navigation(source))
    flags = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "-j", "2", "-d", str(BUILD / "doctrees")]
    return build_main([*flags, "-c", str(Path(__file__).parent), str(source), str(BUILD / "html")])


def _on_the_site(text: str, source: Path) -> str:
    """Links between the root and docs/ as links between pages beside each other; other files come along."""

    def beside(match: re.Match[str]) -> str:
        path = match[2]
        if path in _AT_ROOT:
            return f"{match[1]}{_AT_ROOT[path]}.md"
        if (ROOT / path).is_file() and not (source / path).exists():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
        return f"{match[1]}{path}"

    return _LINK.sub(beside, text)


def _navigation(source: Path) -> str:
    """The lists of pages for Sphinx, of those that there are."""
    there = {page.stem for page in source.glob("*.md")}
    listed = {title: [page for page in pages if page in there] for title, pages in NAVIGATION.items()}
    rest = there - {"index"} - {page for pages in listed.values() for page in pages}
    lists = {**listed, "More": sorted(rest)} if rest else listed
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(pages) + "\n```\n"
        for title, pages in lists.items()
        if pages
    )


def commands() -> str:
    """`runner COMMAND --help` of every command."""
    parser = cli._parser(cli.COMMANDS)
    choices = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parts = [_section(f"runner {name}", command.format_help()) for name, command in choices.items()]
    return f"# Commands\n\n{_code(parser.format_help())}\n" + "\n".join(parts)


def recipe_keys() -> str:
    """Every key of a recipe, as `runner options` explains it."""
    sections: dict[str, list[str]] = {}
    for key, field, hint in keys(Recipe):
        if "." in key and not section_of(hint):
            default, kind = options._default(field), options._type(hint, field.metadata)
            cells = (f"`{key}`", f"`{default}`", kind, field.metadata["help"])
            row = " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
            sections.setdefault(key.partition(".")[0], []).append(f"| {row} |")
    head = "| key | default | type | description |\n|---|---|---|---|\n"
    parts = (f"\n## {name}\n\n{head}" + "\n".join(rows) + "\n" for name, rows in sections.items())
    return "# Keys of a recipe\n\nAs `runner options` shows them.\n" + "".join(parts)


def programs() -> str:
    """`--help` of every stage program."""
    parts = [_section(f"{name}.py", text) for name, text in _program_helps()]
    return "# Stage programs\n\nIn `scripts/`. Each can be run by hand.\n\n" + "\n".join(parts)


def _program_helps() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "scripts").glob("*.py")):
        parser = importlib.import_module(file.stem).flags()
        parser.prog = f"{file.stem}.py"
        yield file.stem, parser.format_help()


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{_code(text)}"


def _code(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    sys.exit(main())
