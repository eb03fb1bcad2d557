"""Files of named tensors that may exceed memory: memory-mapped reading, and writing at an offset."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.formats.dtypes import TensorSpec
from common.program import BadInput


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
        """Release the pages read so far, which would otherwise stay in the resident set."""
        self.map.madvise(mmap.MADV_DONTNEED)


class StoredTensor(NamedTuple):
    """A tensor in a file."""

    file: TensorFile
    name: str

    @property
    def spec(self) -> TensorSpec:
        """The tensor's type and shape."""
        return self.file.specs[self.name]

    def bits(self) -> np.ndarray:
        """The tensor's bit patterns in its shape, read-only and memory-mapped."""
        return self.file.bits(self.name)


def write_all(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of contiguous `data` at `offset`: a single system call may write less.

    Has the disk begin with it now, so that little is left for an fsync at the end.
    """
    view, start = memoryview(data).cast("B"), offset
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    os.posix_fadvise(descriptor, start, offset - start, os.POSIX_FADV_DONTNEED)
