"""`runner rerun`: repeat a recorded run from scratch; on a CPU its metrics are equal bit for bit."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands.lifecycle import run
from runner.commands.tables import terminal
from runner.compose.composed import Composed
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.record import provenance
from runner.record.runs import Run, every, find


def rerun(before: Run, console: Console, force: bool) -> int:
    """Repeat a recorded run in an empty store and compare every metric. Returns the exit status.

    Raises RecipeError if programs or package versions differ from the record, unless `force`.
    """
    recipe = before.typed_recipe()
    if not targets.of(recipe.target).local_store:
        raise RecipeError(f"{before.name}: ran on {before.where}; only runs of this machine can be rerun")
    changed = [*_changed_programs(before, recipe), *_changed_versions(before)]
    if changed and not force:
        raise RecipeError(f"{before.name}: changed since the run: {'; '.join(changed)}; use --force to run it anyway")
    with tempfile.TemporaryDirectory(prefix="rerun-") as store:
        recipe.paths.store = store
        source, overrides = Path(before.manifest["recipe"]), tuple(before.manifest["overrides"])
        status = run(Composed(recipe, source, overrides, before.manifest["choices"]), console)
    return status or _compare(before, every(Path(recipe.paths.runs))[-1], console)


def _changed_programs(before: Run, recipe: Recipe) -> list[str]:
    """The first step whose fingerprint has changed: its program, its data set or its model."""
    now = {step.stage: step.key for step in targets.of(recipe.target).plan(recipe).steps}
    changed = (step["stage"] for step in before.plan["steps"] if now.get(step["stage"]) != step["key"])
    return [f"program or input of {stage}" for stage in list(changed)[:1]]


def _changed_versions(before: Run) -> list[str]:
    then, now = before.manifest["packages"], provenance.package_versions()
    return [f"{name} {then[name]} -> {now[name]}" for name in now if then.get(name) != now[name]]


def _compare(before: Run, after: Run, console: Console) -> int:
    differing = [name for name, value in _repeatable(before).items() if _repeatable(after).get(name) != value]
    for name in differing:
        console.print(Text(f"{name}: {before.metrics()[name]} before, {after.metrics().get(name)} now", style="red"))
    if not differing:
        console.print(Text(f"Reproduced: all {len(_repeatable(before))} metrics equal {before.name} bit for bit."))
    return 1 if differing else 0


def _repeatable(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.metrics().items() if "seconds" not in name}


def rerun_command(args: argparse.Namespace) -> int:
    """Repeat a run."""
    return rerun(find(args.run, args.folder), terminal(), args.force)
