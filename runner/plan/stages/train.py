"""Model + tokens → a LoRA adapter, by one of the back ends."""

from __future__ import annotations

from collections.abc import Callable

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, StageCommand
from runner.plan.trainers import optimum, torch, train_nxd

BACKENDS: dict[str, Callable[[Recipe, Artifacts], StageCommand]] = {
    "torch": torch.command,
    "nxd": train_nxd.command,
    "optimum": optimum.command,
}


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    return BACKENDS[recipe.train.backend](recipe, artifacts)
