"""Asks the machines of runs elsewhere in the background, while somebody looks: a slow one delays no page."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.commands import questions
from runner.record import runs
from runner.record.runs import Run

_EVERY = 10.0  # seconds between two questions to a machine
THREADS = "questions"  # the name of the threads that ask


class Machines:
    """What the machines of runs reported last. To be asked also brings a run's new events into its record."""

    def __init__(self) -> None:
        self._answers: dict[Run, str] = {}
        self._asking: set[str] = set()
        self._last = -math.inf
        self._lock = threading.Lock()

    def complete(self, rows: Mapping[Run, dict[str, Any]]) -> None:
        """Set the `state` of runs that are away to the one known of them, with its `reason`; and ask for news."""
        for run, row in rows.items():
            state, _, reason = self._answers.get(run, "").partition(": ")
            row.update(state=state or row["state"], reason=reason or row["reason"])
        with self._lock:
            due = bool(rows) and time.monotonic() - self._last >= _EVERY
            if due:
                self._last = time.monotonic()
        if due:
            _in_background(self._ask_all, list(rows))

    def _ask_all(self, away: Sequence[Run]) -> None:
        groups = questions.by_machine(runs.readable(away, lambda run: (run.plan, run.recipe)))
        with self._lock:
            idle = {machine: group for machine, group in groups.items() if machine not in self._asking}
            self._asking.update(idle)
        for machine, group in idle.items():
            _in_background(self._ask, machine, group)

    def _ask(self, machine: str, group: Sequence[Run]) -> None:
        try:
            self._answers.update(questions.states(group))
        finally:
            with self._lock:
                self._asking.discard(machine)


def _in_background(work: Callable[..., None], *args: object) -> None:
    threading.Thread(target=work, args=args, daemon=True, name=THREADS).start()
