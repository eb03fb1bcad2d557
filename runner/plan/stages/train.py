"""Model + tokens → a LoRA adapter, by one of the back ends."""

from __future__ import annotations

from collections.abc import Callable

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, Draft
from runner.plan.trainers import optimum, torch, train_nxd

BACKENDS: dict[str, Callable[[Recipe, Artifacts], Draft]] = {
    "torch": torch.draft,
    "nxd": train_nxd.draft,
    "optimum": optimum.draft,
}


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    return BACKENDS[recipe.train.backend](recipe, artifacts)
