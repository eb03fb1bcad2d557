"""The programs of the NxD training, compiled ahead into a cache that stays."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan import packages
from runner.plan.command import OUTPUT, Artifacts, Draft, Word, compile_cache, launcher, neutral
from runner.plan.trainers import nxd


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft | None:
    if recipe.train.backend != "nxd" or not recipe.train.nxd.compile:
        return None
    python, program = artifacts.program("train_nxd.py")
    start = launcher(python.text, nxd.processes(recipe), recipe.parallel.nodes)
    words: list[str | Word] = [
        *neutral("--cache", compile_cache(recipe, artifacts.place)),
        "--output", OUTPUT,
        "--", *neutral(*start), program, *nxd.training_flags(recipe, artifacts),
    ]  # fmt: skip
    return Draft(
        "compile the training's programs", "compile_nxd.py", words,
        nodes=recipe.parallel.nodes, env=nxd.environment(recipe, artifacts), cores=nxd.processes(recipe),
        packages={python.text: [*packages.needed("train_nxd.py"), *recipe.sdk.train_packages]},
    )  # fmt: skip
