"""`runner serve`: a server of a recipe or of recorded runs, in the foreground or detached. It is itself a run."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from runner import targets
from runner.commands.lifecycle import begin, report_failure, say_notes, terminate_as_interrupt, watch
from runner.commands.progress import Follower
from runner.commands.serve import servers
from runner.commands.serve.generate import afterwards, artifacts_of, check_together
from runner.commands.tables import say, terminal
from runner.compose.composed import Composed
from runner.compose.groups import list_groups, option_file
from runner.compose.overrides import check_overrides, parse
from runner.compose.recipe import compose, recipe_names
from runner.compose.schema import Recipe
from runner.compose.text_values import load_yaml, quoted
from runner.compose.validate import InvalidKey, build
from runner.errors import RecipeError
from runner.execute.run_folder import parse_event
from runner.paths import RECIPES
from runner.plan import build as plan
from runner.plan.checks.releases import not_served
from runner.plan.model import Plan
from runner.plan.stages import server_options
from runner.plan.stages.serve import foreground
from runner.record import runs
from runner.record.runs import Run
from runner.targets import Target

_SERVER_KEYS = ("serve.", "sdk.", "hardware.")  # the settings that can still change for a trained model


def serve(args: Sequence[str], folder: Path, console: Console, detached: bool) -> int:
    """Serve until Ctrl-C, or `detached` until `runner stop`. Returns the exit status. Raises RecipeError.

    `args` are a recipe, or runs in `folder`, optionally as NAME=RUN; and overrides.
    """
    composed, planned = plan_of(args, folder)
    say_notes(composed)
    target = targets.of(composed.recipe.target)
    _check_port(target, planned, folder)
    run = begin(composed, planned, target)
    return detach_when_serving(run, target, console) if detached else watch(run, target, console)


def plan_of(args: Sequence[str], folder: Path) -> tuple[Composed, Plan]:
    """The plan of a server for the arguments. Raises RecipeError if they cannot be served."""
    overrides = [arg for arg in args if _is_override(arg)]
    names = [arg for arg in args if not _is_override(arg)] or ["last"]
    if names[0] not in recipe_names() and not names[0].endswith((".yaml", ".yml")):
        return _of_runs(names, overrides, folder)
    if len(names) > 1:
        raise RecipeError(f"{names[1]}: a recipe cannot be served together with others; runs can")
    composed = compose(names[0], [*overrides, "serve.mode=foreground"])
    if composed.recipe.serve.engine == "none":
        raise RecipeError(f"{names[0]}: serve=none serves nothing; add serve=embedded or serve=vllm")
    return composed, targets.of(composed.recipe.target).plan(composed.recipe)


def _is_override(arg: str) -> bool:
    key, equals, _ = arg.lstrip("+~").partition("=")
    return bool(equals) and ("." in key or key in list_groups())


def _of_runs(names: Sequence[str], overrides: Sequence[str], folder: Path) -> tuple[Composed, Plan]:
    served = _served(names, folder)
    first = next(iter(served.values()))
    recipe = _recipe(first, overrides, folder)
    named = served if len(served) > 1 or "=" in names[0] else {recipe.serve.adapter_name: first}
    _check(named, recipe)
    target = targets.of(recipe.target)
    target.check(recipe)
    place = dataclasses.replace(target.place(recipe), store=Path(first.plan["store"]))
    artifacts = {name: artifacts_of(run, recipe) for name, run in named.items()}
    adapters = [server_options.named(name, made) for name, made in artifacts.items()]
    command = foreground(recipe, next(iter(artifacts.values())), adapters)
    composed = Composed(recipe, Path(first.manifest["recipe"]), (*names, *overrides), first.manifest["choices"])
    step = plan.step("serve", command, place, recipe)
    return composed, target.assign(Plan(recipe.name, str(place.store), (step,)))


def _served(names: Sequence[str], folder: Path) -> dict[str, Run]:
    """The run of each model name. Raises RecipeError for duplicate names."""
    served: dict[str, Run] = {}
    for arg in names:
        name, equals, wanted = arg.rpartition("=")
        run = runs.find(wanted, folder, having="export")
        name = name if equals else run.name
        if name in served:
            raise RecipeError(f"{name}: two adapters have this name; rename one with NAME=RUN")
        served[name] = run
    return served


def _recipe(run: Run, overrides: Sequence[str], folder: Path) -> Recipe:
    """The recorded recipe with `overrides` of the server's settings."""
    check_overrides(overrides, RECIPES / "recipe.yaml")
    values = copy.deepcopy(run.recipe)
    for text in sorted(overrides, key=lambda text: "." in text.partition("=")[0]):  # options first, as Hydra does
        _apply(text, values)
    try:
        recipe = build(Recipe, values)
    except InvalidKey as error:
        raise RecipeError(f"{run.name}: {error}") from error
    recipe.serve.mode = "foreground"
    return afterwards(run, recipe, "serve", folder)


def _apply(text: str, recipe: dict[str, Any]) -> None:
    override = parse(quoted(text))
    key, value = override.key_or_group, override.value()
    if key == "serve":
        recipe["serve"] |= load_yaml(option_file(key, str(value)).read_text(encoding="utf-8"), key)
    elif key == "hardware":
        chosen = compose("quickstart", [text]).recipe
        recipe |= {"hardware": dataclasses.asdict(chosen.hardware), "sdk": dataclasses.asdict(chosen.sdk)}
    elif key.startswith(_SERVER_KEYS):
        *sections, name = key.split(".")
        section = functools.reduce(lambda values, below: values.setdefault(below, {}), sections, recipe)
        section[name] = section.get(name, {}) | value if isinstance(value, dict) else value
    else:
        raise RecipeError(
            f"command line: {text}: the model is already trained; only hardware, serve, serve.* and sdk.* can be set"
        )


def _check(served: dict[str, Run], recipe: Recipe) -> None:
    """Raises RecipeError for runs that one server cannot serve together, or not under these names."""
    first = next(iter(served.values()))
    if recipe.serve.engine == "none":
        raise RecipeError(f"{first.name}: serve=none serves nothing; add serve=embedded or serve=vllm")
    if recipe.serve.base_name in served:
        raise RecipeError(
            f"{recipe.serve.base_name}: this is the name of the base model; rename the adapter with NAME=RUN"
        )
    for reason in not_served(recipe, recipe.sdk):
        raise RecipeError(f"sdk: {recipe.sdk.name} {reason}; choose another release, or other hardware")
    check_together(list(served.values()), recipe)
    for run in served.values():
        try:
            server_options.check(dataclasses.replace(recipe, train=run.typed_recipe().train))
        except RecipeError as error:
            raise RecipeError(f"{run.name}: {error}") from error


def _check_port(target: Target, planned: Plan, folder: Path) -> None:
    """Raises RecipeError for a port that is in use, and names the server that uses it, or will once it is ready."""
    args = planned.steps[-1].argv
    host, port = (args[args.index(flag) + 1] for flag in ("--host", "--port"))
    owner = servers.owner_of_port(int(port), target.where, folder)
    problem = _occupied_by(owner) if owner else target.port_problem(host, int(port))
    if problem:
        raise RecipeError(f"serve.port: {port}: {problem}, or choose another with serve.port=N")


def _occupied_by(owner: Run) -> str:
    if servers.has_begun(owner):
        return f"in use by {owner.name}; stop it with `runner stop {owner.name}`"
    return f"{owner.name} will serve there when it is trained; wait for that with `runner attach {owner.name}`"


def detach_when_serving(run: Run, target: Target, console: Console) -> int:
    """Follow a run until its server is ready, then detach from it."""
    follower = Follower(run.steps, console)
    try:
        with terminate_as_interrupt():
            follower.follow(_until_serving(target.follow(run)))
    except KeyboardInterrupt:
        target.cancel(run)
        return 130
    if not follower.serving:
        return report_failure(run, follower)
    target.detach()
    say(console, f"Stop it with `runner stop {run.name}`.")
    return 0


def _until_serving(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield line
        event = parse_event(line)
        if event and event["event"] == "serving":
            return


def serve_command(args: argparse.Namespace) -> int:
    """Serve, or list what is served."""
    if args.list:
        servers.show(args.folder, terminal())
        return 0
    return serve(args.overrides, args.folder, terminal(), args.detach)
