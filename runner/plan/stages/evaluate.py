"""Base and adapter side by side on held-out rows."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import OUTPUT, Artifacts, StageCommand, flags


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
    evaluate = recipe.evaluate
    if not evaluate.enabled:
        return None
    sql = {"sql_schema": evaluate.sql_schema, "sql_rows": evaluate.sql_rows} if "sql" in evaluate.metrics else {}
    words = [
        "--model", artifacts.path("fetch"),
        "--adapter", artifacts.path("export", "adapter"),
        "--tokens", artifacts.path("tokenize"),
        *flags(examples=evaluate.examples, metrics=evaluate.metrics, max_new_tokens=evaluate.max_new_tokens),
        *flags(batch_size=evaluate.batch_size, dtype=evaluate.dtype, **sql),
        "--output", OUTPUT,
    ]  # fmt: skip
    return StageCommand("measure base and adapter on held-out rows", "evaluate.py", words)
