"""Hugging Face folder → tensor-parallel shards."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import OUTPUT, Artifacts, StageCommand, flags
from runner.plan.trainers import trainer_of


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    """The command that converts the model; None for a trainer that reads the Hugging Face folder itself."""
    if not trainer_of(recipe).reads_shards:
        return None
    parallel, layout = recipe.parallel, recipe.hardware.layout
    args = [
        "--input", artifacts.path("fetch"),
        *flags(tp_size=parallel.tp_size, kv_size_multiplier=parallel.kv_size_multiplier, layout=layout),
        "--output", OUTPUT,
    ]  # fmt: skip
    count = f"{parallel.tp_size} tensor-parallel shard{'s' * (parallel.tp_size > 1)}"
    return StageCommand(f"convert to {count} ({layout} layout)", "convert_checkpoint.py", args)
