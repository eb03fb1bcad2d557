"""`runner plan`: the command lines of a recipe, without running them."""

from __future__ import annotations

import argparse
import json

from runner import targets
from runner.commands.arguments import add_recipe
from runner.commands.lifecycle import place_of, say_notes
from runner.commands.tables import terminal
from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.plan import text
from runner.plan.build import build
from runner.plan.model import Plan


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
    plan = build(recipe, place_of(recipe))
    say_notes(composed)
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    elif args.shell:
        print(text.shell(plan), end="")
    elif args.manifests:
        print(_manifests(recipe, plan), end="")
    else:
        text.show(recipe, plan, terminal())
    return 0


def _manifests(recipe: Recipe, plan: Plan) -> str:
    manifests = targets.of(recipe.target).manifests(plan)
    if not manifests:
        raise RecipeError(f"--manifests: target={recipe.target.kind} has no scheduler; try target=slurm")
    return manifests
