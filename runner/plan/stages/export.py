"""Sharded adapter → a PEFT folder, and a merged model by choice."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import OUTPUT, Artifacts, StageCommand
from runner.plan.stages import server_options


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    merge = recipe.export.merge or server_options.merged(recipe)
    words = [
        "--model", artifacts.path("fetch"),
        "--adapter", artifacts.path("train"),
        *(["--merge"] if merge else []),
        "--output", OUTPUT,
    ]  # fmt: skip
    title = "gather the adapter for PEFT and vLLM" + (" and merge it" if merge else "")
    return StageCommand(title, "export_adapter.py", words)
