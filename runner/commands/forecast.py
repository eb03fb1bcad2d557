"""What is known of a training before it runs: its steps, and the price of its machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from runner.compose.schema import Hardware, Recipe
from runner.execute.store import Store
from runner.plan.checks import training_time
from runner.plan.checks.training_time import Range
from runner.plan.model import Plan


def costs(recipe: Recipe, time: Range | None) -> Iterator[tuple[str, str]]:
    """What a machine costs, and the training if its time is known; nothing where there is no price."""
    if recipe.hardware.price_per_hour:
        yield "price", _price(recipe.hardware)
        if time:
            low, high = time.cost(recipe.hardware.price_per_hour, recipe.parallel.nodes)
            yield "training cost", f"${low:,.2f} to ${high:,.2f}"


def _price(hardware: Hardware) -> str:
    """The price of a machine, with where it is from."""
    details = (hardware.price_kind, hardware.price_region, hardware.price_date)
    price = hardware.price_per_hour or 0.0
    exact = f"{price:.2f}" if round(price, 2) == price else f"{price:g}"  # $21.50, $2.235
    return f"${exact} an hour: {', '.join(filter(None, details))}"


def statistics_of(plan: Plan, store: Store) -> Path:
    """Where `tokenize` writes how many sequences there are."""
    step = next(step for step in plan.steps if step.stage == "tokenize")
    return store.path(step.key) / "statistics.json"


def training_steps(recipe: Recipe, statistics: Path) -> tuple[int | None, str]:
    """The number of optimizer steps, None until the rows are tokenized; and how it is computed."""
    train = recipe.train
    if train.max_steps:
        return train.max_steps, "train.max_steps"
    if not statistics.is_file():
        return None, "known when the rows are tokenized (packing decides)"
    sequences = json.loads(statistics.read_text(encoding="utf-8"))["train"]["sequences"]
    copies = training_time.copies(recipe)
    batch = f"{train.batch_size} batch x {train.accumulate} accumulated" + (f" x {copies} copies" if copies > 1 else "")
    return training_time.steps(recipe, sequences), f"{sequences} sequences / ({batch}) x {train.epochs} epoch(s)"
