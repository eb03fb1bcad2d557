"""Reading and writing files larger than memory, and small JSON ones."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.program import BadInput
from common.tensors import TensorSpec


class TensorFile:
    """A memory-mapped file of named tensors; each format reads its own `specs` and `bits`."""

    specs: dict[str, TensorSpec]

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BadInput(f"{path}: no such file")
        self.path = path
        self.size = path.stat().st_size
        if not self.size:
            raise BadInput(f"{path}: the file is empty")
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def bits(self, name: str) -> np.ndarray:
        """The bit patterns of a tensor in its shape, read-only and mapped."""
        raise NotImplementedError

    def release(self) -> None:
        """Give the pages read so far back: without it all that is read once stays in our resident set."""
        self.map.madvise(mmap.MADV_DONTNEED)


class StoredTensor(NamedTuple):
    """A tensor in a file."""

    file: TensorFile
    name: str

    @property
    def spec(self) -> TensorSpec:
        return self.file.specs[self.name]

    def bits(self) -> np.ndarray:
        return self.file.bits(self.name)


def write_all(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of `data` (contiguous) at `offset`: one system call may take less than it was given."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def check_room(folder: Path, needed: int, flag: str = "--output") -> None:
    """BadInput that names `flag` when the disk of `folder`, which need not exist, has not `needed` bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise BadInput(f"{flag} {folder}: {existing} is not a folder")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise BadInput(f"{flag} {folder}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; BadInput when there is none."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: not a JSON object")
    return content
