"""The modelling code of neuronx-distributed, which its package does not hold; first, since it may need the network."""

from __future__ import annotations

from runner.draft import OUTPUT, Artifacts, Draft, options
from runner.schema import Recipe


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft | None:
    if recipe.train.backend != "nxd":
        return None
    nxd = recipe.train.nxd
    folder = ["--folder", artifacts.outside(nxd.source, "train.nxd.source")] if nxd.source else []
    words = [*options(release=nxd.release), *folder, "--output", OUTPUT]
    return Draft(f"get the modelling code of Neuron SDK {nxd.release}", "fetch_nxd_model.py", words)
