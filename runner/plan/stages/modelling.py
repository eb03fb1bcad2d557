"""The modelling code of the trainer, where its package has none. The first stage, because it may need the network."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.plan.checks import releases
from runner.plan.command import Artifacts, StageCommand
from runner.plan.trainers import trainer_of


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    """The command that gets the code; None for a trainer that needs none. Raises RecipeError if none is known."""
    trainer = trainer_of(recipe)
    missing = trainer.missing_code(recipe, recipe.sdk)
    if missing:
        raise RecipeError(f"{missing}, or {releases.advice(recipe)}")
    return trainer.modelling_command(recipe, artifacts)
