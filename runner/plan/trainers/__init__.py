"""The trainers: one module each, with all that a plan needs to know about it."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.trainers.base import Trainer
from runner.plan.trainers.nxd import NxdTrainer
from runner.plan.trainers.optimum import OptimumTrainer
from runner.plan.trainers.torch import TorchTrainer

TRAINERS: dict[str, Trainer] = {trainer.name: trainer for trainer in (TorchTrainer(), NxdTrainer(), OptimumTrainer())}


def trainer_of(recipe: Recipe) -> Trainer:
    """The trainer that a recipe names in `train.backend`."""
    return TRAINERS[recipe.train.backend]
