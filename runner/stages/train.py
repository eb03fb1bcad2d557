"""Shards + tokens → a sharded LoRA adapter."""

from __future__ import annotations

import dataclasses

from runner.draft import OUTPUT, Artifacts, Draft, neutral, options
from runner.errors import RecipeError
from runner.schema import Recipe


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    train = recipe.train
    if train.backend != "torch":
        raise RecipeError(f"train.backend: {train.backend} has no stage program yet; take train=torch_lora")
    settings = {
        name: value
        for name, value in dataclasses.asdict(train).items()
        if name not in ("backend", "lora", "checkpoint_every")
    }
    words = [
        "--shards", artifacts.path("convert"),
        "--data", artifacts.path("tokenize"),
        *options(**settings),
        *options(**dataclasses.asdict(train.lora)),
        *neutral("--checkpoint-every", str(train.checkpoint_every)),
        "--output", OUTPUT,
    ]  # fmt: skip
    title = f"train LoRA of rank {train.lora.rank} on {recipe.parallel.tp_size} rank(s)"
    ranks = recipe.parallel.tp_size
    # A rank that waits for another must not spin on the core that the other needs.
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} if ranks > 1 else {}
    return Draft(title, "train_torch.py", words, processes=ranks, env=env, resumable=True, cores=ranks)
