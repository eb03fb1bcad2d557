"""Model + tokens → a LoRA adapter, by the recipe's trainer."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, StageCommand
from runner.plan.trainers import trainer_of


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    """The command of the recipe's trainer."""
    return trainer_of(recipe).command(recipe, artifacts)
