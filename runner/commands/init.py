"""`runner init`: a project of one's own, with a recipe that runs, an option, data to replace, and editor settings."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from itertools import islice
from pathlib import Path

from runner.compose.json_schema import json_schema
from runner.errors import RecipeError
from runner.paths import RECIPES

_TEMPLATE = Path(__file__).with_name("project_template")
_FILES = {
    "recipes/first.yaml": "first.yaml",
    "configs/dataset/mine.yaml": "mine.yaml",
    "Makefile": "Makefile",
    ".gitignore": "gitignore",
    ".vscode/settings.json": "settings.json",
    ".vscode/extensions.json": "extensions.json",
}
_ROWS = {"train": 800, "eval": 40}  # of quickstart's data: enough to see the tiny Llama learn
_NEXT = """{folder}: recipes/first.yaml trains on data/train.jsonl; put your own rows there. Next:

  cd {folder}
  {runner} data first   # the rows as they will be trained
  {runner} plan first   # every command line
  {runner} run first    # a minute or two
"""


def init(folder: Path) -> None:
    """Make the project. Raises RecipeError unless the folder is new or empty."""
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder}: is a file; choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(f"{folder}: is not empty; choose a new folder")
    for name, template in _FILES.items():
        text = (_TEMPLATE / template).read_text(encoding="utf-8")
        _write(folder / name, text.replace("RUNNER_COMMAND", _in_makefile(_runner())))
    _write(folder / ".vscode" / "recipe.schema.json", json.dumps(json_schema(folder / "recipes"), indent=2) + "\n")
    for name, count in _ROWS.items():
        with (RECIPES / "assets" / "sql" / f"{name}.jsonl").open(encoding="utf-8") as rows:
            _write(folder / "data" / f"{name}.jsonl", "".join(islice(rows, count)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _runner() -> str:
    """The command that started this, as a shell finds it."""
    command = Path(sys.executable).with_name("runner")
    if not command.is_file():
        return shlex.join([sys.executable, "-m", "runner"])
    found = shutil.which("runner")
    return "runner" if found and Path(found).samefile(command) else shlex.quote(str(command))


def _in_makefile(command: str) -> str:
    return command.replace("$", "$$").replace("#", "\\#")


def init_command(args: argparse.Namespace) -> int:
    """Make a project, and say what to do next."""
    init(args.name)
    print(_NEXT.format(folder=shlex.quote(str(args.name)), runner=_runner()), end="")
    return 0
