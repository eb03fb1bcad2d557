"""The modelling code of neuronx-distributed, which its package does not hold; first, since it may need the network."""

from __future__ import annotations

from runner.compose.schema import NXD_RELEASES, Recipe
from runner.errors import RecipeError
from runner.plan.command import OUTPUT, Artifacts, StageCommand, flags
from runner.plan.trainers import base


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    if recipe.train.backend != "nxd":
        return None
    nxd = recipe.train.nxd
    folder = ["--folder", artifacts.external(nxd.source, "train.nxd.source")] if nxd.source else []
    release = _release(recipe)
    words = [*flags(release=release), *folder, "--output", OUTPUT]
    return StageCommand(f"get the modelling code of Neuron SDK {release}", "fetch_nxd_model.py", words)


def _release(recipe: Recipe) -> str:
    """The code of the SDK that trains, unless the recipe names another. Raises RecipeError if none is known of it."""
    release = recipe.train.nxd.release or recipe.sdk.name
    if release not in NXD_RELEASES:
        raise RecipeError(
            f"train.nxd.release: of SDK {release} (sdk.name) no modelling code is known; name that of another, such as "
            f"train.nxd.release={NXD_RELEASES[-1]}, or {base.advice(recipe)}"
        )
    return release
