"""One run from a composed recipe to its closing words."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import record, summary, trackers
from runner.compose import Composed
from runner.draft import Place
from runner.follow import Follower
from runner.plan import build
from runner.runs import Run
from runner.schema import Recipe
from runner.targets import local


class Interrupted(KeyboardInterrupt):
    """SIGTERM: ended like Ctrl-C."""


def place_of(recipe: Recipe) -> Place:
    """Where the recipe's target will run a plan."""
    return local.place(recipe)


def run(composed: Composed, console: Console) -> int:
    """Plan, execute and record; shows progress and the outcome. Returns the exit status."""
    tracker = trackers.of(composed.recipe)
    plan = build(composed.recipe, place_of(composed.recipe))
    record.prepare_folders(composed.recipe)
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
