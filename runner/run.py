"""One run from a composed recipe to its closing words."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import record, summary, trackers
from runner.compose import Composed
from runner.draft import Place
from runner.errors import RecipeError
from runner.follow import Follower
from runner.plan import build
from runner.runs import Run, every
from runner.schema import Recipe
from runner.targets import local
from runner.validate import build as build_recipe


class Interrupted(KeyboardInterrupt):
    """SIGTERM: ended like Ctrl-C."""


def place_of(recipe: Recipe) -> Place:
    """Where the recipe's target will run a plan."""
    return local.place(recipe)


def run(composed: Composed, console: Console) -> int:
    """Plan, execute and record; shows progress and the outcome. Returns the exit status."""
    tracker = trackers.of(composed.recipe)
    plan = build(composed.recipe, place_of(composed.recipe))
    folder = record.create(composed, plan)
    follower = Follower(plan.steps, console)
    try:
        status = execute(folder, tracker, follower, console)
    except KeyboardInterrupt:
        console.print(Text(f"stopped; the same command goes on from here. Record: {folder}", style="yellow"))
        return 130
    if follower.state != "finished":
        console.print(Text(f"{follower.failed_stage or 'run'}: {follower.reason}", style="red"), soft_wrap=True)
        return status if status > 0 else 1
    summary.show(Run(folder), console)
    return status


def execute(folder: Path, tracker: trackers.Tracker | None, follower: Follower, console: Console) -> int:
    """Execute the plan that `folder` records, shown by `follower` and fed to `tracker`. Returns the exit status."""
    feed = trackers.feed(tracker, Run(folder), lambda text: console.print(Text(text, style="yellow"), soft_wrap=True))
    with terminate_as_interrupt(), feed as tracked, local.LocalRun(folder) as running:
        follower.follow(tracked.passing(running.lines()))
    return running.status


def rerun(before: Run, console: Console, force: bool) -> int:
    """Do a recorded run again from nothing, in a store of its own, and compare every figure. Returns the exit status.

    Raises RecipeError where programs or package versions are not those of the record, unless `force`.
    """
    recipe = build_recipe(Recipe, before.recipe)
    changed = [*_changed_programs(before, recipe), *_changed_versions(before)]
    if changed and not force:
        raise RecipeError(f"{before.name}: not the same any more: {'; '.join(changed)}; --force runs it all the same")
    with tempfile.TemporaryDirectory(prefix="rerun-") as store:
        recipe.paths.store = store
        source, overrides = Path(before.manifest["recipe"]), tuple(before.manifest["overrides"])
        status = run(Composed(recipe, source, overrides, before.manifest["choices"]), console)
    return status or _compare(before, max(every(Path(recipe.paths.runs)), key=lambda run: run.name), console)


def _changed_programs(before: Run, recipe: Recipe) -> list[str]:
    """Steps whose fingerprint is another one now: a program, a data set or a model has changed."""
    now = {step.stage: step.key for step in build(recipe, place_of(recipe)).steps}
    changed = (step["stage"] for step in before.plan["steps"] if now.get(step["stage"]) != step["key"])
    return [f"program or input of {stage}" for stage in list(changed)[:1]]


def _changed_versions(before: Run) -> list[str]:
    then, now = before.manifest["packages"], record.versions()
    return [f"{name} {then[name]} -> {now[name]}" for name in now if then.get(name) != now[name]]


def _compare(before: Run, after: Run, console: Console) -> int:
    differing = [name for name, value in _repeatable(before).items() if _repeatable(after).get(name) != value]
    for name in differing:
        console.print(Text(f"{name}: {before.metrics()[name]} then, {after.metrics().get(name)} now", style="red"))
    if not differing:
        console.print(Text(f"all {len(_repeatable(before))} figures are those of {before.name}, to the last bit"))
    return 1 if differing else 0


def _repeatable(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.metrics().items() if "seconds" not in name}


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Have SIGTERM end what is done meanwhile like Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
