"""Free disk space, JSON files, and telling large files apart."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from common.program import BadInput

_SAMPLE, _EVERY = 2**12, 2**22  # bytes


def check_free_space(folder: Path, needed: int, flag: str = "--output") -> None:
    """Raise BadInput naming `flag` unless the disk of `folder`, which need not exist yet, has `needed` bytes free."""
    free = shutil.disk_usage(nearest_folder(folder, flag)).free
    if free < needed:
        raise BadInput(f"{flag} {folder}: {_size(needed)} are needed, {_size(free)} are free")


def nearest_folder(folder: Path, flag: str = "--output") -> Path:
    """The folder, or the first one above it that exists. Raises BadInput naming `flag` where a file is in the way."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise BadInput(f"{flag} {folder}: {existing} is not a folder")
    return existing


def _size(count: int) -> str:
    """Bytes in a unit in which a small number does not look like none."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count} bytes"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BadInput if there is no such file or it holds anything else."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: not a JSON object")
    return content


def sampled_digest(path: Path) -> str:
    """A digest of a file's size, its end and 4 KiB of every 4 MiB: a thousandth of it, for weights of many gigabytes.

    Other weights, or trained ones, differ everywhere; a change of a single tensor row may stay unnoticed.
    """
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for offset in (*range(0, size, _EVERY), max(0, size - _SAMPLE)):
            stream.seek(offset)
            total.update(stream.read(_SAMPLE))
    return total.hexdigest()
