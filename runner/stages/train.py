"""Model + tokens → a LoRA adapter, by one of the back ends."""

from __future__ import annotations

from collections.abc import Callable

from runner.draft import Artifacts, Draft
from runner.schema import Recipe
from runner.stages import train_nxd, train_optimum, train_torch

BACKENDS: dict[str, Callable[[Recipe, Artifacts], Draft]] = {
    "torch": train_torch.draft,
    "nxd": train_nxd.draft,
    "optimum": train_optimum.draft,
}


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    return BACKENDS[recipe.train.backend](recipe, artifacts)
