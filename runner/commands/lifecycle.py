"""One run, from a composed recipe to its summary: plan, record, start, follow, detach or cancel."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from runner import targets
from runner.commands import summary
from runner.commands.progress import Follower
from runner.commands.tables import say
from runner.compose.composed import Composed
from runner.errors import RecipeError
from runner.plan.model import Plan
from runner.record import create, trackers
from runner.record.runs import Run
from runner.startup import print_error
from runner.targets import Target


class Interrupted(KeyboardInterrupt):
    """Raised for SIGTERM, which is handled like Ctrl-C."""


def say_notes(composed: Composed) -> None:
    """Print which settings of a recipe have no effect."""
    for note in composed.notes:
        print(f"note: {note}", file=sys.stderr)


def run(composed: Composed, console: Console, detached: bool = False, quiet: bool = False) -> int:
    """Plan, execute and record a recipe; show progress, unless `quiet`, and the outcome. Returns the exit status.

    A `detached` run is only started.
    """
    target, plan = prepare(composed)
    say_notes(composed)
    record = begin(composed, plan, target, attached=not detached)
    if detached:
        _print_detached(record, console)
        return 0
    return watch(record, target, console, quiet)


def prepare(composed: Composed) -> tuple[Target, Plan]:
    """The target of a recipe and its plan there. Raises RecipeError for what cannot work."""
    trackers.of(composed.recipe.tracker)
    target = targets.of(composed.recipe.target)
    return target, target.plan(composed.recipe)


def begin(composed: Composed, plan: Plan, target: Target, attached: bool = True) -> Run:
    """Record a run and start it. Raises RecipeError, and leaves no record, if it cannot start."""
    create.prepare_folders(composed.recipe, target.local_store)
    run = Run(create.create(composed, plan))
    start(run, target, attached)
    return run


def start(run: Run, target: Target, attached: bool) -> None:
    """Start a recorded run. If it cannot start, removes the record and raises RecipeError."""
    try:
        target.start(run, attached)
    except RecipeError:
        shutil.rmtree(run.folder)
        raise


def watch(run: Run, target: Target, console: Console, quiet: bool = False) -> int:
    """Follow a started run to its end, fetch its results and show them, no progress if `quiet`. Returns the status.

    Ctrl-C asks whether to cancel the run or to detach from it.
    """
    status = follow_to_end(run, target, console, quiet)
    if status == 0:
        summary.show(run, console)
        if not quiet:
            summary.show_next(run, console)
    return status


def follow_to_end(run: Run, target: Target, console: Console, quiet: bool = False) -> int:
    """Follow a started run to its end and fetch its results. Returns the exit status, 0 for one that finished."""
    follower = Follower(run.steps, Console(quiet=True) if quiet else console)
    try:
        with terminate_as_interrupt():
            follow(run, target, follower, console, target.follow(run))
    except KeyboardInterrupt as stop:
        return _leave(run, target, console, ask=not isinstance(stop, Interrupted))
    return 0 if follower.state == "finished" else report_failure(run, follower)


def report_failure(run: Run, follower: Follower) -> int:
    """Say on standard error why a run did not finish, and what to do next. Returns the exit status."""
    stage, name = follower.failed_stage, summary.as_argument(run)
    print_error(f"{stage or 'run'}: {follower.reason}")
    print_error(f"see runner logs {name} --stage {stage}" if stage else f"see runner show {name}")
    return follower.status or 1


def follow(run: Run, target: Target, follower: Follower, console: Console, lines: Iterator[bytes]) -> None:
    """Show the event stream `lines` of a started run until it ends, feed its tracker, and fetch its results."""
    tracker = trackers.of(run.typed_tracker())
    feed = trackers.feed(tracker, run, lambda text: say(console, text, "yellow"))
    with feed as tracked:
        follower.follow(tracked.passing(lines))
        target.fetch(run, adapter=run.recipe["target"]["fetch"] == "auto")


def _leave(run: Run, target: Target, console: Console, ask: bool) -> int:
    """Cancel a run in progress, or detach from it. Returns the exit status."""
    if _wants_to_detach(target, console) if ask and console.is_terminal else target.survives:
        target.detach()
        _print_detached(run, console)
        return 0
    target.cancel(run)
    say(console, f"Stopped. Run the same command to resume. Record: {run.folder}", "yellow")
    return 130


def _wants_to_detach(target: Target, console: Console) -> bool:
    """Ask the user; a second Ctrl-C, or no answer, takes the default of the target."""
    default = "d" if target.survives else "c"
    try:
        answer = console.input(f"\n[yellow]d: detach, the run continues; c: cancel it ({default}): ").strip().lower()
    except (KeyboardInterrupt, EOFError):
        answer = ""
    return (answer or default).startswith("d")


def _print_detached(run: Run, console: Console) -> None:
    say(console, f"{run.name} continues in the background; use runner attach, logs, status or cancel {run.name}")


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Within this context, SIGTERM raises Interrupted, as Ctrl-C raises KeyboardInterrupt."""

    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
