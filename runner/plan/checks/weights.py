"""Whether a local folder is a whole model with a tokenizer: a look at its files, before any work."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from runner.errors import RecipeError

_INDEX = "model.safetensors.index.json"


def check_kind(folder: Path, key: str) -> None:
    """Raises RecipeError that names `key`, the recipe's, for a folder that holds something else than a model."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not any(folder.glob("model*.safetensors")):
        raise RecipeError(f"{key}: {folder}: this is a LoRA adapter{_base(adapter)}; name its base model")
    if any((folder / "model").glob("dp_rank_*.pt")):
        raise RecipeError(f"{key}: {folder}: these are shards of a model; name the Hugging Face folder")


def _base(adapter: Path) -> str:
    try:
        base = json.loads(adapter.read_bytes())["base_model_name_or_path"]
    except (ValueError, LookupError, TypeError):
        return ""
    return f" of {base}" if base else ""


def check_tokenizer(folder: Path, key: str) -> None:
    """Raises RecipeError for a folder without the tokenizer file that the stages read."""
    if not (folder / "tokenizer.json").is_file():
        raise RecipeError(
            f"{key}: {folder}: no tokenizer.json; save it there with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...), or name another model in model.tokenizer"
        )


def check(folder: Path, key: str) -> None:
    """Raises RecipeError that names `key` and the file for a model folder without whole safetensors files.

    The format: 8 bytes length of the header, little-endian; the header, JSON that gives every tensor's place in
    the data; the data (https://github.com/huggingface/safetensors).
    """
    for file in _files(folder, key):
        if not file.is_file():
            raise RecipeError(f"{key}: {file}: no such file, but {_INDEX} names it; copy or download it again")
        missing = _expected_size(file, key) - file.stat().st_size
        if missing > 0:
            raise RecipeError(f"{key}: {file}: {missing} bytes are missing at its end; copy or download it again")


def _files(folder: Path, key: str) -> list[Path]:
    """The weight files, as the stages find them."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        others = " (its *.bin files can run code when they are loaded)" if any(folder.glob("*.bin")) else ""
        raise RecipeError(
            f"{key}: {folder}: neither model.safetensors nor {_INDEX}; save the model with transformers' "
            f"save_pretrained{others}"
        )
    try:
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise RecipeError(f"{key}: {index}: weight_map does not map tensors to files; download it again") from None


def _expected_size(file: Path, key: str) -> int:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        ends = (tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        return 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{key}: {file}: not a safetensors file, or cut off; copy or download it again") from error
