"""Asks several machines at once, and does not wait for those that do not answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from runner import targets
from runner.errors import RecipeError
from runner.record.runs import Run

_PATIENCE = 20.0  # seconds for all answers together; an attempt to connect takes up to 15


def states(runs: Sequence[Run]) -> dict[Run, str]:
    """The state of each run as its machine reports it, or why it cannot be asked. Every machine is asked at once."""
    answers: dict[Run, str] = {}
    at_once([partial(_ask, group, answers) for group in by_machine(runs).values()], _PATIENCE)
    return {run: answers.get(run, f"no answer within {_PATIENCE:g} s") for run in runs}


def by_machine(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each machine or cluster, as their recipes name it."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.recipe["target"], sort_keys=True), []).append(run)
    return groups


def _ask(runs: Sequence[Run], answers: dict[Run, str]) -> None:
    target = None
    for run in runs:
        try:
            target = target or targets.of_run(run)
            answers[run] = target.state(run)
        except (RecipeError, OSError) as error:
            answers[run] = f"cannot be asked: {error}"


def at_once(work: Sequence[Callable[[], None]], seconds: float) -> None:
    """Do all of this in threads; returns when it is done, or after some seconds, with what is not done going on."""
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
