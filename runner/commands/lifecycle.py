"""One run from a composed recipe to its closing words."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands import summary
from runner.commands.progress import Follower
from runner.compose.recipe import Composed
from runner.compose.schema import Tracker
from runner.errors import RecipeError
from runner.plan.model import Step
from runner.record import create, trackers
from runner.record.runs import Run
from runner.targets import Target


class Interrupted(KeyboardInterrupt):
    """SIGTERM: ended like Ctrl-C."""


def say_notes(composed: Composed) -> None:
    """Tell what of a recipe is not used."""
    for note in composed.notes:
        print(f"note: {note}", file=sys.stderr)


def run(composed: Composed, console: Console, detached: bool = False) -> int:
    """Plan, execute and record; shows progress and the outcome. Returns the exit status.

    A `detached` run is started and left alone.
    """
    recipe = composed.recipe
    trackers.of(recipe.tracker)
    target = targets.of(recipe.target)
    plan = target.plan(recipe)
    say_notes(composed)
    create.prepare_folders(recipe, target.local_store)
    made = Run(create.create(composed, plan))
    start(made, target, attached=not detached)
    if detached:
        _say_detached(made, console)
        return 0
    return watch(made, target, console)


def start(one: Run, target: Target, attached: bool) -> None:
    """Start a recorded run. Raises RecipeError, and then leaves no record, where it cannot be."""
    try:
        target.start(one, attached)
    except RecipeError:
        shutil.rmtree(one.folder)
        raise


def watch(one: Run, target: Target, console: Console) -> int:
    """Follow a run that was started to its end, bring its results and show them. Returns the exit status.

    Ctrl-C asks whether the run shall go on alone.
    """
    follower = Follower([Step(**step) for step in one.plan["steps"]], console)
    try:
        follow(one, target, follower, console)
    except KeyboardInterrupt as stop:
        return _leave(one, target, console, ask=not isinstance(stop, Interrupted))
    if follower.state != "finished":
        console.print(Text(f"{follower.failed_stage or 'run'}: {follower.reason}", style="red"), soft_wrap=True)
        return follower.status or 1
    summary.show(one, console)
    return 0


def follow(one: Run, target: Target, follower: Follower, console: Console) -> None:
    """Show a started run until it has ended, feed its tracker, and bring its results."""
    tracker = trackers.of(Tracker(**one.recipe["tracker"]))
    feed = trackers.feed(tracker, one, lambda text: console.print(Text(text, style="yellow"), soft_wrap=True))
    with terminate_as_interrupt(), feed as tracked:
        follower.follow(tracked.passing(target.follow(one)))
        target.fetch(one, adapter=one.recipe["target"]["fetch"] == "auto")


def _leave(one: Run, target: Target, console: Console, ask: bool) -> int:
    """Leave a run that goes on: cancel it, or have it live on alone."""
    if _asked_to_detach(target, console) if ask and console.is_terminal else target.survives:
        target.detach()
        _say_detached(one, console)
        return 0
    target.cancel(one)
    console.print(Text(f"stopped; the same command goes on from here. Record: {one.folder}", style="yellow"))
    return 130


def _asked_to_detach(target: Target, console: Console) -> bool:
    """The answer; a second Ctrl-C, or none, is the one that is usual for the target."""
    usual = "d" if target.survives else "c"
    try:
        answer = console.input(f"\n[yellow]d: detach, the run goes on; c: cancel it ({usual}): ").strip().lower()
    except (KeyboardInterrupt, EOFError):
        answer = ""
    return (answer or usual).startswith("d")


def _say_detached(one: Run, console: Console) -> None:
    console.print(Text(f"{one.name} goes on; runner attach, logs, status or cancel {one.name}"), soft_wrap=True)


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
