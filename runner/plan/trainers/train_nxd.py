"""Shards + tokens → a sharded LoRA adapter, with neuronx-distributed on NeuronCores."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, StageCommand
from runner.plan.trainers import nxd


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    cores, nodes = nxd.processes(recipe), recipe.parallel.nodes
    return StageCommand(
        f"train LoRA of rank {recipe.train.lora.rank} on {cores * nodes} cores", "train_nxd.py",
        nxd.training_flags(recipe, artifacts), processes=cores, nodes=nodes, env=nxd.environment(recipe, artifacts),
        resumable=True, cores=cores, packages={artifacts.place.python: recipe.sdk.train_packages},
        ports=nxd.ports(recipe),
    )  # fmt: skip
