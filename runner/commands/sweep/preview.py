"""`runner plan -m`: what a sweep runs, compiles, takes and costs, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner import targets
from runner.commands import tables
from runner.commands.forecast import costs, statistics_of, training_steps
from runner.commands.sweep.pruning import pruner_of
from runner.commands.sweep.sweep import Sweep, distinct
from runner.compose.schema import Recipe
from runner.execute.store import Store
from runner.metrics import duration
from runner.plan.checks import feasibility, training_time
from runner.plan.checks.training_time import Range
from runner.plan.model import Plan

Trial = tuple[Recipe, Plan]


def show(sweep: Sweep, console: Console) -> None:
    """Print how often each stage runs, and the steps, time and cost of the trainings that are not in the store.

    Of a search, whose trials are not known before, only the examples that were checked are shown.
    """
    trials = [(composed.recipe, plan) for composed, plan in sweep.trials]
    console.print(Text(f"{sweep.size} trials over {', '.join(sweep.keys)}"), soft_wrap=True)
    console.print(_stages(trials))
    derived = tables.table("", "", show_header=False)
    for name, value in _derived(sweep, trials):
        derived.add_row(name, value)
    console.print(derived)


def _stages(trials: Sequence[Trial]) -> Table:
    """Of each stage: the trials that have it, how many differ in it, and how many of these are in the store."""
    table = tables.table("stage", "trials", "different", "in the store", "to run")
    for column in table.columns[1:]:
        column.justify = "right"
    plans = [plan for _, plan in trials]
    for stage in dict.fromkeys(step.stage for plan in plans for step in plan.steps):
        count = sum(step.stage == stage for plan in plans for step in plan.steps)
        different, missing = len(distinct(plans, stage)), len(_missing(trials, stage))
        table.add_row(stage, *map(str, (count, different, different - missing, missing)))
    return table


def _missing(trials: Sequence[Trial], stage: str) -> list[Trial]:
    """One trial for each artifact of a stage that has to be made."""
    made = distinct([plan for _, plan in trials], stage)
    return [trials[number] for number, step in made.items() if not (step.cached and _has(trials[number], step.key))]


def _has(trial: Trial, key: str) -> bool:
    """Whether an artifact is in the store, as far as this machine can see that."""
    recipe, plan = trial
    return targets.of(recipe.target).local_store and Store(plan.store).has(key)


def _derived(sweep: Sweep, trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    recipe, missing = trials[0][0], _missing(trials, "train")
    compiled = len(_missing(trials, "compile"))
    if any(step.stage == "compile" for step in trials[0][1].steps):
        yield "compile", f"{compiled} of {sweep.size} trials; not in the time below"
    steps = [_steps_of(trial) for trial in missing]
    known = [count for count in steps if count is not None]
    if len(known) < len(steps):
        yield "training steps", "known when the rows are tokenized (packing decides)"
        return
    least = _least(missing, known) if recipe.sweep.pruner != "none" else None
    pruned = f"{least:,} to " if least is not None else ""
    yield "training steps", f"{pruned}{sum(known):,} in {len(known)} trainings"
    time = _time(missing, known, (least or sum(known)) / max(sum(known), 1))
    if time:
        span = f"{duration(time.shortest)} to {duration(time.longest)}"
        yield "training time", f"{span}, one after another; computed, not measured"
    yield from costs(recipe, time)


def _steps_of(trial: Trial) -> int | None:
    recipe, plan = trial
    return training_steps(recipe, statistics_of(plan, Store(plan.store)))[0]


def _least(trials: Sequence[Trial], steps: Sequence[int]) -> int:
    """The steps if only the longest training gets past the pruner's first rung."""
    pruners = [pruner_of(recipe) for recipe, _ in trials]
    first = [min(pruner.min_resource if pruner else count, count) for pruner, count in zip(pruners, steps, strict=True)]
    return max(steps, default=0) + sum(first) - max(first, default=0)


def _time(trials: Sequence[Trial], steps: Sequence[int], least: float) -> Range | None:
    """The time of all trainings; its lower end for the share `least` of the steps. None if it is not known of one."""
    times = []
    for (recipe, _), count in zip(trials, steps, strict=True):
        architecture = feasibility.architecture_of(recipe)
        times.append(architecture and training_time.training_time(recipe, architecture, count))
    known = [time for time in times if time]
    if not known or len(known) < len(times):
        return None
    return Range(least * sum(time.shortest for time in known), sum(time.longest for time in known))
