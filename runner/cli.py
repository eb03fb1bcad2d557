"""The `runner` command.

    runner run RECIPE [OVERRIDE ...]     compose, plan, execute, record
    runner plan RECIPE [OVERRIDE ...]    what would run: every command line, and what is cached

RECIPE is a name in recipes/ or a path. An OVERRIDE is Hydra's: tp_size=8 picks configs/tp_size/8.yaml,
train.lora.rank=32 sets a key. `run` takes Hydra's own flags too: --cfg job, --info, -m for a sweep.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from runner import compose, plan_text
from runner.errors import RecipeError
from runner.plan import build
from runner.run import place_of, run


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 2 bad input, 1 a stage failed, 130 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    try:
        return args.command(args.recipe, args.overrides)
    except RecipeError as error:
        print(f"runner: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, help in (("run", _run, "run a recipe"), ("plan", _plan, "show what a recipe would run")):
        one = commands.add_parser(name, help=help, allow_abbrev=False)
        one.add_argument("recipe", help=f"one of {', '.join(compose.recipe_names())}, or a path")
        one.add_argument("overrides", nargs=argparse.REMAINDER, help="Hydra overrides, such as tp_size=2")
        one.set_defaults(command=command)
    return parser


def _run(recipe: str, overrides: list[str]) -> int:
    if any(word.startswith("-") for word in overrides):
        from runner import hydra_app  # Hydra's application machinery takes 0.1 s to import

        return hydra_app.main(recipe, overrides)
    return run(compose.compose(recipe, overrides), Console())


def _plan(recipe: str, overrides: list[str]) -> int:
    composed = compose.compose(recipe, overrides)
    plan_text.show(composed.recipe, build(composed.recipe, place_of(composed.recipe)))
    return 0
