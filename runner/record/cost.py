"""What a run has cost: the time of its stages on machines with a price."""

from __future__ import annotations

from collections.abc import Iterable

from runner.record.runs import Run


def cost(run: Run) -> float | None:
    """US dollars for the machine hours of a run; None without hardware.price_per_hour."""
    price = run.recipe.get("hardware", {}).get("price_per_hour")
    return price * machine_hours(run) if price else None


def machine_hours(run: Run) -> float:
    """The time of all stages on all their machines: interrupted attempts count, waiting in a queue does not."""
    machines = {step["stage"]: step.get("nodes", 1) for step in run.plan["steps"]}
    ended = (event for event in run.events() if event["event"] == "step" and "seconds" in event)
    return sum(event["seconds"] * machines.get(event["stage"], 1) for event in ended) / 3600


def total(runs: Iterable[Run]) -> float | None:
    """What several runs have cost together; None if none has a price."""
    costs = [dollars for dollars in map(cost, runs) if dollars is not None]
    return sum(costs) if costs else None


def text(dollars: float | None) -> str:
    """A cost as it is shown."""
    return "" if dollars is None else f"${dollars:,.2f}"
