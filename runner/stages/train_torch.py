"""Shards + tokens → a sharded LoRA adapter, on CPU ranks."""

from __future__ import annotations

from runner.draft import Artifacts, Draft
from runner.schema import Recipe
from runner.stages import train_settings


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    ranks, nodes = recipe.parallel.tp_size, recipe.parallel.nodes
    words = [
        "--shards", artifacts.path("convert"),
        "--data", artifacts.path("tokenize"),
        *train_settings.words(recipe.train),
    ]  # fmt: skip
    title = f"train LoRA of rank {recipe.train.lora.rank} on {ranks} rank(s)"
    # A rank that waits for another must not spin on the core that the other needs.
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if ranks > 1 else {}
    here = ranks // nodes
    return Draft(
        title, "train_torch.py", words, processes=here, nodes=nodes, env=env, resumable=True, cores=here
    )
