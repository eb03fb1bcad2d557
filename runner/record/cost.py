"""What a run has cost: the time of its stages on machines with a price."""

from __future__ import annotations

from collections.abc import Iterable

from runner.record.attempts import attempts
from runner.record.runs import Run


def cost(run: Run) -> float | None:
    """US dollars for the machine hours of a run; None without hardware.price_per_hour."""
    return run.price_per_hour * machine_hours(run) if run.price_per_hour else None


def machine_hours(run: Run) -> float:
    """The time of all stages on all their machines: attempts that were stopped, were interrupted or failed count,
    waiting in a queue does not.
    """
    machines = {step["stage"]: step.get("nodes", 1) for step in run.plan["steps"]}
    return sum(attempt.seconds * machines.get(attempt.stage, 1) for attempt in attempts(run.events())) / 3600


def total(costs: Iterable[float | None]) -> float | None:
    """What several runs have cost together; None if none has a price."""
    known = [dollars for dollars in costs if dollars is not None]
    return sum(known) if known else None


def text(dollars: float | None) -> str:
    """A cost as it is shown."""
    return "" if dollars is None else f"${dollars:,.2f}"
