"""The job that a scheduler has for a run. Standard library alone.

A run that has one keeps the job's ids in its folder; a run that has none is executed by a process of this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.execute import files
from runner.execute.run_folder import CANCELLED, JOB
from runner.execute.schedulers.base import GAVE_UP, NO_ANSWER, Refused, Scheduler, Unreachable

_POLL = 2.0  # seconds between questions to a scheduler, which serves a whole cluster


class Job:
    """The jobs of one run."""

    def __init__(self, run: Path, scheduler: Scheduler, ids: list[str]):
        self.ids = ids
        self._run, self._scheduler = run, scheduler
        self._asked, self._state = -_POLL, ""

    def __str__(self) -> str:
        return f"job {', '.join(self.ids)}"

    def state(self) -> str:
        """ "running", "waiting: WHY" or "gone", at most some seconds old.

        If the scheduler does not answer, the last one known, or else NO_ANSWER with the reason.
        """
        if not self.ids:  # whoever submitted it was killed meanwhile
            return "gone"
        if time.monotonic() - self._asked >= _POLL:
            self._asked = time.monotonic()
            try:
                self._state = self._scheduler.state(self.ids)
            except Unreachable as error:
                self._state = self._state or f"{NO_ANSWER}{error}"
        if self._state == GAVE_UP:
            self._state = self._submit_again()
        return self._state

    def _submit_again(self) -> str:
        """The state after a job that its scheduler gave up was submitted again, unless another command has done so."""
        if (self._run / CANCELLED).exists():
            return "gone"
        with (self._run / JOB).open("rb") as record:
            files.lock(record)
            self.ids = _recorded(self._run)["ids"]
            try:
                if self._scheduler.state(self.ids) == GAVE_UP:
                    plan = json.loads((self._run / "plan.json").read_text(encoding="utf-8"))
                    [self.ids] = self._scheduler.submit({self._run: plan})
                    _record(self._run, plan["job"]["scheduler"], self.ids)
            except Refused:
                return "gone"
            except Unreachable as error:
                return f"waiting: {error}"
        return "waiting: submitted again, because its scheduler gave up on it"

    def reason(self) -> str:
        """Why it ended, as far as its scheduler knows."""
        return self._scheduler.reason(self.ids)

    def cancel(self) -> None:
        """End it, and wait until it is gone, or will be as soon as it begins."""
        self._scheduler.cancel(self.ids)
        while (now := self.state()) != "gone" and (self._scheduler.cancels_waiting_jobs or now == "running"):
            time.sleep(_POLL / 4)


def submit(runs: Sequence[Path]) -> None:
    """Hand recorded runs to the scheduler that their plans name. Raises Refused."""
    plans = {run: json.loads((run / "plan.json").read_text(encoding="utf-8")) for run in runs}
    name = plans[runs[0]]["job"]["scheduler"]
    for run in runs:
        _record(run, name, [])  # the executor may begin before `submit` returns
    for run, ids in zip(runs, _scheduler(name).submit(plans)):  # noqa: B905  # Python 3.9 has no strict=
        _record(run, name, ids)


def _record(run: Path, scheduler: str, ids: list[str]) -> None:
    files.write_atomic(run / JOB, json.dumps({"scheduler": scheduler, "ids": ids}))


def of_run(run: Path) -> Job | None:
    """The job of a run; None if it was not submitted to a scheduler."""
    try:
        recorded = _recorded(run)
    except FileNotFoundError:
        return None
    return Job(run, _scheduler(recorded["scheduler"]), recorded["ids"])


def _recorded(run: Path) -> dict[str, Any]:
    return json.loads((run / JOB).read_text(encoding="utf-8"))


def _scheduler(name: str) -> Scheduler:
    return import_module(f"runner.execute.schedulers.{name}").Scheduler()
