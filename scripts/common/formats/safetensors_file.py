"""safetensors files without torch: memory-mapped reading, and writing tensor by tensor, piece by piece.

Format (https://github.com/huggingface/safetensors): the header's length as a little-endian u64, the
header as JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.files import read_json
from common.formats.dtypes import BIT_TYPES, TensorSpec
from common.formats.tensor_file import StoredTensor, TensorFile, write_all
from common.program import BadInput

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_PREFIX = 8  # bytes of the header's length
_HEADER_LIMIT = 100_000_000  # the reference implementation's
_MOST_DIMENSIONS = 32  # NumPy 1's limit


class SafetensorsFile(TensorFile):
    """An open safetensors file. `specs` tells what is in it, `bits(name)` maps a tensor.

    BadInput, naming the file and the tensor, when header and data do not agree.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        header = self._header()
        header.pop("__metadata__", None)
        self.specs: dict[str, TensorSpec] = {}
        self._begin: dict[str, int] = {}
        for name, entry in header.items():
            self._add(name, entry)
        self._check_covered()

    def bits(self, name: str) -> np.ndarray:
        spec = self.specs[name]
        dtype = BIT_TYPES[spec.dtype]
        flat = np.frombuffer(self.map, dtype, spec.nbytes // dtype.itemsize, self._data + self._begin[name])
        return flat.reshape(spec.shape)

    def _header(self) -> dict[str, Any]:
        length = int.from_bytes(self.map[:_PREFIX], "little")
        self._data = _PREFIX + length
        if length > _HEADER_LIMIT or self._data > self.size:
            raise BadInput(f"{self.path}: not a safetensors file, or cut off: its header would take {length} bytes")
        try:
            header = json.loads(self.map[_PREFIX : self._data], object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{self.path}: not a safetensors file: its header is not JSON: {error}") from None
        if not isinstance(header, dict):
            raise BadInput(f"{self.path}: not a safetensors file: its header is not a JSON object")
        return header

    def _add(self, name: str, entry: Any) -> None:
        usable = _usable(entry)
        if usable is None:
            raise BadInput(f"{self.path}: tensor {name} has no usable dtype, shape and data_offsets in the header")
        dtype, shape, begin, end = usable
        if dtype not in BIT_TYPES:
            raise BadInput(f"{self.path}: tensor {name} has type {dtype}, only {', '.join(BIT_TYPES)} are supported")
        spec = TensorSpec(dtype, shape)
        if end - begin != spec.nbytes:
            raise BadInput(f"{self.path}: tensor {name} of {spec.nbytes} bytes has {end - begin} in the header")
        if self._data + end > self.size:
            missing = self._data + end - self.size
            raise BadInput(f"{self.path}: cut off {missing} bytes before the end of tensor {name}: fetch it again")
        self.specs[name], self._begin[name] = spec, begin

    def _check_covered(self) -> None:
        end = 0
        for name in sorted(self.specs, key=lambda name: (self._begin[name], self.specs[name].nbytes)):
            if self._begin[name] != end:
                raise BadInput(f"{self.path}: tensor {name} starts at {self._begin[name]} in the data, expected {end}")
            end += self.specs[name].nbytes
        if self._data + end != self.size:
            raise BadInput(f"{self.path}: {self.size - self._data - end} bytes after the last tensor")


class SafetensorsWriter:
    """Writes a safetensors file whose tensors are known beforehand; pieces come in any order, from any thread."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, spec in specs.items():
            header[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [end, end + spec.nbytes]}
            end += spec.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # data starts aligned
        data = _PREFIX + len(text)
        self._offsets = {name: data + header[name]["data_offsets"][0] for name in specs}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        write_all(self._descriptor, struct.pack("<Q", len(text)) + text, 0)

    def write(self, name: str, offset: int, bits: np.ndarray) -> None:
        """Put contiguous `bits` at `offset` bytes into the tensor."""
        write_all(self._descriptor, bits.data, self._offsets[name] + offset)

    def close(self) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def open_model(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a Hugging Face folder by name."""
    index = _weight_map(folder)
    opened: dict[str, StoredTensor] = {}
    for file in [SafetensorsFile(folder / name) for name in sorted(set(index.values())) or [SINGLE]]:
        for name in file.specs:
            if name in opened:
                raise BadInput(f"{file.path}: tensor {name} is also in {opened[name].file.path.name}")
            opened[name] = StoredTensor(file, name)
    for name, file_name in index.items():
        if name not in opened or opened[name].file.path.name != file_name:
            raise BadInput(f"{folder / file_name}: tensor {name} is missing, {INDEX} says it is here")
    return opened


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name → file name from the index; empty when the folder holds one file."""
    if (folder / SINGLE).is_file():
        return {}
    if not (folder / INDEX).is_file():
        raise BadInput(f"{folder}: neither {SINGLE} nor {INDEX} is there: only safetensors weights are read")
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_file_name(file) for file in names.values()):
        raise BadInput(f"{folder / INDEX}: weight_map does not map tensor names to file names")
    return names


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name != ""


def _usable(entry: Any) -> tuple[str, tuple[int, ...], int, int] | None:
    """dtype, shape, begin and end of a header's entry, if it has them."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        return None
    limits = all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end))
    fits = limits and len(shape) <= _MOST_DIMENSIONS and math.prod(filter(None, shape)) < 2**60  # elements, for NumPy
    return (dtype, shape, begin, end) if isinstance(dtype, str) and fits else None
