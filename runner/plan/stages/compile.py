"""The programs of the NxD training, compiled ahead into a cache that stays."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan import packages
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand, compile_cache, launcher, not_fingerprinted
from runner.plan.trainers import nxd


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    if recipe.train.backend != "nxd" or not recipe.train.nxd.compile:
        return None
    python, program = artifacts.program("train_nxd.py")
    start = launcher(python.text, nxd.processes(recipe), recipe.parallel.nodes)
    words: list[str | Argument] = [
        *not_fingerprinted("--cache", compile_cache(recipe, artifacts.place)),
        "--output", OUTPUT,
        "--", *not_fingerprinted(*start), program, *nxd.training_flags(recipe, artifacts),
    ]  # fmt: skip
    return StageCommand(
        "compile the training's programs", "compile_nxd.py", words,
        nodes=recipe.parallel.nodes, env=nxd.environment(recipe, artifacts), cores=nxd.processes(recipe),
        packages={python.text: [*packages.needed("train_nxd.py"), *recipe.sdk.train_packages]},
    )  # fmt: skip
