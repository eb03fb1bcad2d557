"""`runner run`: a recipe from composition to its results."""

from __future__ import annotations

import argparse

from runner.commands.lifecycle import run
from runner.commands.tables import terminal
from runner.compose.recipe import compose


def run_command(args: argparse.Namespace) -> int:
    """Run a recipe here, detached, or as Hydra does."""
    quiet, detached = "--quiet" in args.overrides, "--detach" in args.overrides
    overrides = [argument for argument in args.overrides if argument not in ("--quiet", "--detach")]
    if not detached and any(argument.startswith("-") for argument in overrides):
        from runner.commands import hydra_app  # Hydra's application machinery takes 0.1 s to import

        return hydra_app.main(args.recipe, overrides, quiet)
    return run(compose(args.recipe, overrides), terminal(), detached, quiet)
