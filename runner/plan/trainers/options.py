"""The flags that every trainer takes."""

from __future__ import annotations

import dataclasses

from runner.compose.schema import Train
from runner.plan.command import OUTPUT, Word, neutral, options

_NOT_OF_ALL = ("backend", "lora", "nxd", "compile_cache", "checkpoint_every", "attention")


def words(train: Train) -> list[str | Word]:
    """Schedule, adapter, checkpoints and output of a training."""
    settings = {name: value for name, value in dataclasses.asdict(train).items() if name not in _NOT_OF_ALL}
    return [
        *options(**settings),
        *options(**dataclasses.asdict(train.lora)),
        *neutral("--checkpoint-every", str(train.checkpoint_every)),
        "--output", OUTPUT,
    ]  # fmt: skip
