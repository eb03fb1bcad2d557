"""Models, data and adapters at s3:// addresses of a recipe: what lies there, for the checks and the fingerprint.

The stages `download_model`, `download_data` and `download_adapter` copy them, on the machine of the plan.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.execute import survey
from runner.plan import elsewhere
from runner.plan.command import Place

_CREDENTIALS = "this machine needs AWS credentials too, to see what is there: set AWS_PROFILE"


def located(recipe: Recipe, place: Place) -> tuple[Recipe, Place]:
    """The recipe with paths of a preview instead of s3:// addresses, and the place with that preview.

    Raises RecipeError for an address at which nothing is, or that cannot be read.
    """
    named = elsewhere.on_s3(recipe)
    if not named:
        return recipe, place
    preview = place.preview or elsewhere.preview_of(recipe.target)
    for address, key in named.items():
        if address not in preview.known:
            preview.add(_report(address, key), {address: key}, "S3")
    here = elsewhere.replaced(
        recipe, lambda path: str(preview.path_of_object(elsewhere.S3 + path.rstrip("/"))), elsewhere.S3
    )
    return here, dataclasses.replace(place, preview=preview)


@contextmanager
def opened(address: str, key: str) -> Iterator[tuple[Any, str]]:
    """The file system of fsspec for an s3:// address, and the path there; what fails raises RecipeError with `key`."""
    try:
        import fsspec

        yield fsspec.core.url_to_fs(address, use_listings_cache=False)
    except RecipeError:
        raise
    except ImportError:
        raise RecipeError(f"{key}: {address}: needs s3fs: pip install 'trainium-recipes[s3]'") from None
    except Exception as error:  # s3fs passes on those of botocore and of aiohttp
        raise RecipeError(f"{key}: {address}: {_reason(error)}") from error


def _report(address: str, key: str) -> Iterator[bytes]:
    """The lines of `runner.execute.survey` about an address, with paths of the preview. Raises RecipeError."""
    with opened(address, key) as (files, path):
        found = list(_entries(files, path))
    if not found:
        raise RecipeError(f"{key}: {address}: no such file or folder on S3")
    for entry in found:
        yield json.dumps({**entry, "path": elsewhere.S3_FOLDER + entry["path"]}).encode()


def _entries(files: Any, path: str) -> Iterator[dict[str, Any]]:
    """Each file at a path, in the folder of that name, or of names that match it as a pattern."""
    roots = files.glob(path) if any(letter in path for letter in "*?[") else [path]
    for root in roots:
        for name, about in sorted(files.find(root, detail=True).items()):
            if not any(part.startswith(".") for part in name[len(root) :].split("/")):
                whole = survey.ROWS if name == root else survey.SMALL
                with files.open(name, "rb", block_size=survey.SMALL) as file:
                    content = survey.packed(file, PurePosixPath(name).suffix, about["size"], whole)
                digest = f"{about['size']} {about['ETag'].strip(chr(34))}"
                yield {"path": name, "size": about["size"], "digest": digest, "content": content}


def _reason(error: Exception) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return "no such bucket" if "bucket does not exist" in text else "no such file or folder on S3"
    if "Credential" in kind or isinstance(error, PermissionError):
        return f"{text or kind}; {_CREDENTIALS}"
    return text or kind
