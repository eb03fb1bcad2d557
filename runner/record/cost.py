"""What a run has cost: the time of its stages on machines with a price."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from runner.record.runs import Run


def cost(run: Run) -> float | None:
    """US dollars for the machine hours of a run; None without hardware.price_per_hour."""
    return run.price_per_hour * machine_hours(run) if run.price_per_hour else None


def machine_hours(run: Run) -> float:
    """The time of all stages on all their machines: attempts that were stopped, were interrupted or failed count,
    waiting in a queue does not.
    """
    machines = {step["stage"]: step.get("nodes", 1) for step in run.plan["steps"]}
    return sum(seconds * machines.get(stage, 1) for stage, seconds in _attempts(run.events())) / 3600


def _attempts(events: Iterable[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Each attempt at a stage and its seconds: from its beginning to its end, or to the last event of one killed."""
    stage, begun, last = "", 0.0, 0.0
    for event in events:
        time = event.get("time", last)
        is_restart = event["event"] == "run" and event["state"] == "started"
        if stage and (event["event"] == "run" or event.get("state") in ("finished", "failed", "cached")):
            yield stage, (last if is_restart else time) - begun
            stage = ""
        elif event.get("state") == "begun":
            stage, begun = event["stage"], time
        last = time
    if stage:
        yield stage, last - begun


def total(runs: Iterable[Run]) -> float | None:
    """What several runs have cost together; None if none has a price."""
    costs = [dollars for dollars in map(cost, runs) if dollars is not None]
    return sum(costs) if costs else None


def text(dollars: float | None) -> str:
    """A cost as it is shown."""
    return "" if dollars is None else f"${dollars:,.2f}"
