"""What a sweep may use: when its trials have cost or taken that much, it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.record import cost
from runner.record.runs import Run


@dataclass(frozen=True)
class Budget:
    """The limits of all trials together: US dollars, and machine hours. None is no limit."""

    max_cost: float | None = None
    max_hours: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit: without one, no trial's record needs to be read."""
        return self.max_cost is not None or self.max_hours is not None

    def exhausted(self, trials: Sequence[Run]) -> str | None:
        """The limit that the trials have reached, as text; None while there is something left."""
        if self.max_cost is not None:
            dollars = cost.total(map(cost.cost, trials)) or 0.0
            if dollars >= self.max_cost:
                return f"stopped by sweep.max_cost: ${dollars:,.2f} of ${self.max_cost:,.2f} spent"
        if self.max_hours is not None:
            hours = sum(map(cost.machine_hours, trials))
            if hours >= self.max_hours:
                return f"stopped by sweep.max_hours: {hours:.2f} of {self.max_hours:g} hours used"
        return None


def budget_of(recipe: Recipe) -> Budget:
    """The budget of a sweep. Raises RecipeError for one in dollars where hours have no price."""
    if recipe.sweep.max_cost is not None and not recipe.hardware.price_per_hour:
        raise RecipeError(
            f"sweep.max_cost: {recipe.hardware.name} has no price; set hardware.price_per_hour, or sweep.max_hours"
        )
    return Budget(recipe.sweep.max_cost, recipe.sweep.max_hours)
