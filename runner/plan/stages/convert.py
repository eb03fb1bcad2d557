"""Hugging Face folder → tensor-parallel shards."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import OUTPUT, Artifacts, StageCommand, flags


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    if recipe.train.backend == "optimum":
        return None  # it cuts the model itself
    parallel, layout = recipe.parallel, recipe.hardware.layout
    words = [
        "--input", artifacts.path("fetch"),
        *flags(tp_size=parallel.tp_size, kv_size_multiplier=parallel.kv_size_multiplier, layout=layout),
        "--output", OUTPUT,
    ]  # fmt: skip
    return StageCommand(f"cut the model into {parallel.tp_size} {layout} shard(s)", "convert_checkpoint.py", words)
