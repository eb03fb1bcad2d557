"""The header of a safetensors file, read without the stages' packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LIMIT = 100_000_000  # bytes: the reference implementation's


def read(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The entry of every tensor, and where the data begins. Raises ValueError for a file without such a header.

    The format is 8 bytes for the length of the header, little-endian; the header, JSON with every tensor's offsets in
    the data; and the data (https://github.com/huggingface/safetensors).
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LIMIT:
            raise ValueError(f"a header of {length} bytes")
        try:
            header = json.loads(file.read(length))
        except RecursionError as error:
            raise ValueError(str(error)) from None
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    header.pop("__metadata__", None)
    if not all(_is_entry(entry) for entry in header.values()):
        raise ValueError("an entry has no shape or data_offsets")
    return header, 8 + length


def _is_entry(entry: Any) -> bool:
    numbers = [*entry["shape"], *entry["data_offsets"]] if _has_lists(entry) else [None]
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def _has_lists(entry: Any) -> bool:
    lists = (entry.get(key) for key in ("shape", "data_offsets")) if isinstance(entry, dict) else (None,)
    return all(isinstance(value, list) for value in lists) and len(entry["data_offsets"]) == 2
