"""The remote store of a plan: the program that copies artifacts to and from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.plan import elsewhere
from runner.plan.command import Place
from runner.plan.packages import FOLDER, S3, needed

_PROGRAM = "remote_store.py"


def settings(recipe: Recipe, place: Place) -> dict[str, Any] | None:
    """What `runner.execute.remote_store` is to run, and the packages that it needs; None without a remote store.

    Raises RecipeError for an address that is neither on S3 nor an absolute path.
    """
    address = recipe.paths.remote_store
    if address is None:
        return None
    on_s3 = address.startswith(elsewhere.S3)
    if not (len(address) > len(elsewhere.S3) if on_s3 else Path(address).is_absolute()):
        raise RecipeError(f"paths.remote_store: {address}: name s3://BUCKET/PREFIX, or a folder by its absolute path")
    return {
        "argv": [place.python, str(place.code / "scripts" / _PROGRAM), address],
        "packages": {place.python: needed(_PROGRAM, [S3 if on_s3 else FOLDER])},
    }
