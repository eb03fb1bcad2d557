"""The programs of the training, compiled ahead into a cache that all runs share."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, StageCommand
from runner.plan.trainers import trainer_of


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    """The command that compiles; None for a trainer that compiles as it goes."""
    return trainer_of(recipe).compile_command(recipe, artifacts)
