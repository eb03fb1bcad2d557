"""Shards + tokens → a sharded LoRA adapter."""

from __future__ import annotations

from runner.draft import OUTPUT, Artifacts, Draft
from runner.schema import Recipe
from runner.stages import nxd


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    return {"torch": _torch, "nxd": _nxd}[recipe.train.backend](recipe, artifacts)


def _torch(recipe: Recipe, artifacts: Artifacts) -> Draft:
    words = [*nxd.common_flags(recipe, artifacts), "--output", OUTPUT]
    ranks = recipe.parallel.tp_size
    # A rank that waits for another must not spin on the core that the other needs.
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if ranks > 1 else {}
    return Draft(_title(recipe, ranks), "train_torch.py", words, processes=ranks, env=env, resumable=True)


def _nxd(recipe: Recipe, artifacts: Artifacts) -> Draft:
    ranks, nodes = nxd.processes(recipe), recipe.parallel.nodes
    return Draft(
        _title(recipe, ranks * nodes), "train_nxd.py", nxd.training_flags(recipe, artifacts), processes=ranks,
        nodes=nodes, python=nxd.train_python(recipe), env=nxd.environment(recipe, artifacts), resumable=True,
    )  # fmt: skip


def _title(recipe: Recipe, ranks: int) -> str:
    return f"train LoRA of rank {recipe.train.lora.rank} on {ranks} rank(s)"
