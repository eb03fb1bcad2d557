"""The job that a scheduler was given for a run. Standard library alone: it travels.

A run that has one keeps its ids in its folder; a run that has none is executed by a process of this machine.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.execute import schedulers

JOB = "scheduled.json"  # in the run folder: {"scheduler": NAME, "ids": [...]}
_LOOK_EVERY = 2.0  # seconds between questions to a scheduler, which serves a whole cluster


class Job:
    """The job of the run in the folder `run`."""

    def __init__(self, run: Path, scheduler: str, ids: list[str]):
        self.ids = ids
        self._run, self._scheduler = run, _module(scheduler)
        self._looked, self._seen = -_LOOK_EVERY, "running"

    def __str__(self) -> str:
        return f"job {', '.join(self.ids)}"

    def look(self) -> str:
        """ "running", "waiting: WHY" or "gone", no older than some seconds; what it was if no one answers."""
        if not self.ids:  # who submitted it was killed meanwhile
            return "gone"
        if time.monotonic() - self._looked >= _LOOK_EVERY:
            self._looked = time.monotonic()
            with contextlib.suppress(schedulers.Unreachable):
                self._seen = self._scheduler.look(self.ids)
        return self._seen

    def reason(self) -> str:
        """Why it ended, as far as its scheduler knows."""
        return self._scheduler.reason(self.ids)

    def cancel(self) -> None:
        """End it, and wait until it is gone, or will be as soon as it begins."""
        self._scheduler.cancel(self.ids)
        while (seen := self.look()) != "gone" and (self._scheduler.ENDS_WAITING or seen == "running"):
            time.sleep(_LOOK_EVERY / 4)


def submit(runs: Sequence[Path]) -> None:
    """Hand recorded runs to the scheduler that their plans name. Raises Refused."""
    plans = [json.loads((run / "plan.json").read_text(encoding="utf-8")) for run in runs]
    name = plans[0]["job"]["scheduler"]
    for run in runs:
        _keep(run, name, [])  # the executor may begin before submit returns
    ids = _module(name).submit(dict(zip(runs, plans, strict=True)))
    for run, its in zip(runs, ids, strict=True):
        _keep(run, name, its)


def _keep(run: Path, scheduler: str, ids: list[str]) -> None:
    aside = run / f".{JOB}"
    aside.write_text(json.dumps({"scheduler": scheduler, "ids": ids}), encoding="utf-8")
    aside.rename(run / JOB)


def of(run: Path) -> Job | None:
    """The job of a run, if a scheduler has it."""
    try:
        kept = json.loads((run / JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Job(run, kept["scheduler"], kept["ids"])


def _module(name: str) -> Any:
    return import_module(f"runner.execute.schedulers.{name}")
