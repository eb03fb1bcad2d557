"""One run from a composed recipe to its closing words."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import record, summary
from runner.compose import Composed
from runner.draft import Place
from runner.follow import Follower
from runner.plan import build
from runner.runs import Run
from runner.schema import Recipe
from runner.targets import local


class Interrupted(Exception):
    """SIGTERM: ended like Ctrl-C."""


def place_of(recipe: Recipe) -> Place:
    """Where the recipe's target will run a plan."""
    return local.place(recipe)


def run(composed: Composed, console: Console) -> int:
    """Plan, execute and record; shows progress and the outcome. Returns the exit status."""
    plan = build(composed.recipe, place_of(composed.recipe))
    folder = record.create(composed, plan)
    follower = Follower(plan.steps, console)
    try:
        with _terminate_as_interrupt(), local.LocalRun(folder) as running:
            follower.follow(running.lines())
        status = running.status
    except (KeyboardInterrupt, Interrupted):
        console.print(Text(f"stopped; the same command goes on from here. Record: {folder}", style="yellow"))
        return 130
    if follower.state != "finished":
        console.print(Text(f"{follower.failed_stage or 'run'}: {follower.reason}", style="red"), soft_wrap=True)
        return status if status > 0 else 1
    summary.show(Run(folder), console)
    return status


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
