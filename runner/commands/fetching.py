"""Copies to this machine what a command needs of runs elsewhere, and the record does not have yet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from runner import targets
from runner.commands import questions
from runner.errors import RecipeError
from runner.plan.model import HERE
from runner.record.runs import Run
from runner.startup import print_error

_PATIENCE = 60.0  # seconds for all machines together


def fetch_results(runs: Sequence[Run]) -> None:
    """Copy the events and results of runs elsewhere that were never followed to their end.

    For each that cannot be asked, a line on stderr says so: what is recorded here may still be of use.
    """
    incomplete = [run for run in runs if run.where != HERE and (run.state == "away" or not run.has_results)]
    questions.at_once([partial(_fetch, run) for run in incomplete], _PATIENCE)


def _fetch(run: Run) -> None:
    try:
        target = targets.of_run(run)
        target.state(run)  # copies the events
        target.fetch(run, adapter=False)
    except (RecipeError, OSError) as error:
        print_error(f"{run.name}: shown as far as it is recorded here: {error}")


def fetch_adapter(run: Run) -> None:
    """Copy the adapter of a run elsewhere. Raises RecipeError if its machine cannot be asked, or has none yet."""
    if run.where == HERE or run.adapter.exists():
        return
    target = targets.of_run(run)
    target.fetch(run, adapter=True)
    if not run.adapter.exists():
        raise RecipeError(f"{run.name}: has no adapter yet; on {run.where} the run is {target.state(run)}")
