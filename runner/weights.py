"""Whether the weight files of a local model are whole: a look at their headers, before any work."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from runner.errors import RecipeError


def check_is_model(folder: Path, key: str) -> None:
    """Raises RecipeError that names `key` for a LoRA adapter in place of a model."""
    config = folder / "adapter_config.json"
    if not config.is_file() or (folder / "config.json").is_file():
        return
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    of = f" of {base}" if isinstance(base, str) and base else ""
    raise RecipeError(f"{key}: {folder}: is a LoRA adapter{of}, not a model; name its base model, or merge it first")


def check(folder: Path, key: str) -> None:
    """Raises RecipeError that names `key` and the file for a model folder without whole safetensors files.

    The format: 8 bytes length of the header, little-endian; the header, JSON that gives every tensor's place in
    the data; the data (https://github.com/huggingface/safetensors).
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RecipeError(f"{key}: {folder}: no *.safetensors file; save the model with save_pretrained")
    for file in files:
        missing = _expected_size(file, key) - file.stat().st_size
        if missing > 0:
            raise RecipeError(f"{key}: {file}: {missing} bytes are missing at its end; copy or download it again")


def _expected_size(file: Path, key: str) -> int:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        ends = (tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
        return 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{key}: {file}: not a safetensors file, or cut off; copy or download it again") from error
