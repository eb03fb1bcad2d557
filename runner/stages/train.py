"""Shards + tokens → a sharded LoRA adapter."""

from __future__ import annotations

import dataclasses

from runner.draft import OUTPUT, Artifacts, Draft, neutral, options
from runner.schema import Recipe


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    train = recipe.train
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
    return Draft(title, "train_torch.py", words, processes=recipe.parallel.tp_size, resumable=True)
