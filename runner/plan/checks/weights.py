"""Checks that a local folder contains a complete model and a tokenizer, before any work."""

from __future__ import annotations

import json
from pathlib import Path

from runner.errors import RecipeError
from runner.plan.checks import safetensors_header

_INDEX = "model.safetensors.index.json"


def check_kind(folder: Path, key: str) -> None:
    """Raises RecipeError, with the recipe's `key`, for a folder that contains something other than a model."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not any(folder.glob("model*.safetensors")):
        raise RecipeError(f"{key}: {folder}: is a LoRA adapter{_base(adapter)}; set the key to its base model")
    if any((folder / "model").glob("dp_rank_*.pt")):
        raise RecipeError(f"{key}: {folder}: contains shards of a model; set the key to the Hugging Face folder")


def _base(adapter: Path) -> str:
    try:
        base = json.loads(adapter.read_bytes())["base_model_name_or_path"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f" of {base}" if base else ""


def check_tokenizer(folder: Path, key: str) -> None:
    """Raises RecipeError, with the recipe's `key`, for a folder without the tokenizer file that the stages read."""
    if not (folder / "tokenizer.json").is_file():
        raise RecipeError(
            f"{key}: {folder}: no tokenizer.json; save it there with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...), or set model.tokenizer to another model"
        )


def check(folder: Path, key: str) -> None:
    """Raises RecipeError, with the recipe's `key`, for a model folder with a missing or truncated safetensors file."""
    for file in _files(folder, key):
        if not file.is_file():
            raise RecipeError(f"{key}: {file}: no such file, although {_INDEX} lists it; copy or download it again")
        missing = _expected_size(file, key) - file.stat().st_size
        if missing > 0:
            raise RecipeError(f"{key}: {file}: {missing} bytes are missing at the end; copy or download it again")


def _files(folder: Path, key: str) -> list[Path]:
    """The files with the weights, by the rule of the stage programs."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        others = " (its *.bin files can run code when they are loaded)" if any(folder.glob("*.bin")) else ""
        raise RecipeError(
            f"{key}: {folder}: contains neither model.safetensors nor {_INDEX}; save the model with transformers' "
            f"save_pretrained{others}"
        )
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RecipeError(f"{key}: {index}: weight_map does not map tensors to files; download it again") from None


def _expected_size(file: Path, key: str) -> int:
    try:
        header, data = safetensors_header.read(file)
    except ValueError as error:
        raise RecipeError(f"{key}: {file}: not a safetensors file, or truncated; copy or download it again") from error
    return data + max((entry["data_offsets"][1] for entry in header.values()), default=0)
