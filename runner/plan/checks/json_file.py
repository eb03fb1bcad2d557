"""Reads a JSON file that a recipe names, or one that lies beside what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.errors import RecipeError


def read(path: Path, key: str) -> dict[str, Any]:
    """The JSON object in a file. Raises RecipeError, with the recipe's `key`, if it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{key}: {path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{key}: {path}: not a JSON object")
    return content
