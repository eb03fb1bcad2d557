"""Arguments that several commands share, and their completion in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner.compose.recipe import recipe_names


def add_recipe(parser: argparse.ArgumentParser, overrides: str) -> None:
    """RECIPE, and OVERRIDE as often as `overrides` allows (an `nargs` of argparse)."""
    recipe = parser.add_argument("recipe", help=f"one of {', '.join(recipe_names())}, or a path")
    changes = parser.add_argument("overrides", nargs=overrides, metavar="OVERRIDE", help="such as tp_size=2")
    complete(recipe, "recipes")
    complete(changes, "overrides")


def add_runs_folder(parser: argparse.ArgumentParser) -> None:
    """--in FOLDER, where runs are recorded."""
    parser.add_argument("--in", dest="folder", type=Path, default=Path("runs"), help="folder of run records")


def add_run(parser: argparse.ArgumentParser) -> None:
    """RUN, by default the last one, and --in FOLDER."""
    add_runs_folder(parser)
    run = parser.add_argument(
        "run", metavar="RUN", nargs="?", default="last", help="its name or folder (default: last)"
    )
    complete(run, "run_names")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json, for programs."""
    parser.add_argument("--json", action="store_true", help="as JSON, with nothing rounded")


def complete(action: argparse.Action, by: str) -> None:
    """Complete an argument with a function of `runner.commands.completion`, which is imported when a shell asks."""

    def completer(prefix: str, **context: Any) -> Iterable[str]:
        from runner.commands import completion

        return getattr(completion, by)(prefix, **context)

    action.completer = completer  # type: ignore[attr-defined]  # argcomplete's protocol
