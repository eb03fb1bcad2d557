"""`runner plan`: the command lines of a recipe, without running them."""

from __future__ import annotations

import argparse
import json

from runner import targets
from runner.commands.arguments import add_recipe
from runner.commands.lifecycle import say_notes
from runner.commands.tables import terminal
from runner.compose.recipe import compose
from runner.plan import text


def add_plan(parser: argparse.ArgumentParser) -> None:
    """A recipe and the form in which its plan is printed."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--shell", action="store_true", help="as a bash script that does the same by hand")
    form.add_argument("--manifests", action="store_true", help="what Slurm, Kubernetes or Ray would receive")
    add_recipe(parser, "*")
    parser.set_defaults(command=_plan)


def _plan(args: argparse.Namespace) -> int:
    composed = compose(args.recipe, args.overrides)
    recipe = composed.recipe
    target = targets.of(recipe.target)
    plan = target.plan(recipe)
    say_notes(composed)
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    elif args.shell:
        print(text.shell(plan), end="")
    elif args.manifests:
        print(target.manifests(plan), end="")
    else:
        text.show(recipe, plan, terminal())
    return 0
