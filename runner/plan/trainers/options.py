"""The flags that every trainer takes."""

from __future__ import annotations

import dataclasses

from runner.compose.schema import Train
from runner.plan.command import OUTPUT, Argument, flags, not_fingerprinted

_NOT_OF_ALL = ("backend", "lora", "nxd", "compile_cache", "checkpoint_every", "attention")


def words(train: Train) -> list[str | Argument]:
    """Schedule, adapter, checkpoints and output of a training."""
    settings = {name: value for name, value in dataclasses.asdict(train).items() if name not in _NOT_OF_ALL}
    return [
        *flags(**settings),
        *flags(**dataclasses.asdict(train.lora)),
        *not_fingerprinted("--checkpoint-every", str(train.checkpoint_every)),
        "--output", OUTPUT,
    ]  # fmt: skip
