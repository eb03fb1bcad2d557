"""What torch.save writes for a plain dict of tensors, without torch: memory-mapped reading, streaming writing.

Such a file is a zip archive whose records are stored uncompressed: data.pkl, a pickle that names the
tensors, and one record data/<n> a storage. Reading a pickle can run any code; here only the few names
that such a dict needs are let through. Zip: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import collections
import contextlib
import io
import math
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.formats.dtypes import BIT_TYPES, TensorSpec
from common.formats.tensor_file import TensorFile, write_all
from common.program import BadInput

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}

_FOLDER = "archive"  # torch takes any name
_ALIGNMENT = 64  # of every record's data, as torch.save aligns it
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
_NEEDS_ZIP64 = 45  # version needed to extract
_UNREADABLE = (
    pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError,
    TypeError, ValueError, struct.error,
)  # fmt: skip
_MOST_DIMENSIONS = 32  # NumPy 1's limit
_IN_EXTRA = 0xFFFFFFFF  # "the 64-bit extra field has it": used throughout, so that any size is written alike


class Strided(NamedTuple):
    """A tensor in the pickle: a view of a storage record, its numbers in elements."""

    dtype: str
    shape: tuple[int, ...]
    record: str
    start: int
    strides: tuple[int, ...]


def checksums(path: Path) -> dict[str, tuple[int, int]]:
    """Size and CRC-32 of the records of a file by name, which the archive lists: their data are not read."""
    with _archive(path) as archive:
        named = {_name(record): record for record in archive.infolist()}
        return {name: (record.file_size, record.CRC) for name, record in named.items() if name.startswith("data")}


class TorchZipFile(TensorFile):
    """An open file of torch.save. `specs` tells what is in it, `bits(name)` maps a tensor.

    BadInput when the file is damaged or holds anything but a dict of name → float32, float16 or bfloat16 tensor.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._records = self._find_records()
        self._check_byte_order()
        self._tensors = self._unpickle(self._content("data.pkl"))
        for name, tensor in self._tensors.items():
            self._check(name, tensor)
        self.specs = {name: TensorSpec(tensor.dtype, tensor.shape) for name, tensor in self._tensors.items()}
        self.release()  # finding the records has touched every one of them

    def bits(self, name: str) -> np.ndarray:
        """As TensorFile.bits; not contiguous where the tensor was saved so."""
        tensor = self._tensors[name]
        dtype = BIT_TYPES[tensor.dtype]
        begin, size, _ = self._records[f"data/{tensor.record}"]
        flat = np.frombuffer(self.map, dtype, size // dtype.itemsize, begin)[tensor.start :]
        strides = [stride * dtype.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)

    def _find_records(self) -> dict[str, tuple[int, int, int]]:
        """(begin, size, checksum) of the data of every record, by its name without the archive's folder."""
        with _archive(self.path) as archive:
            return {_name(record): self._span(record) for record in archive.infolist()}

    def _span(self, record: zipfile.ZipInfo) -> tuple[int, int, int]:
        fields = _LOCAL_HEADER.unpack_from(self.map, record.header_offset)
        begin = record.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]  # name, extra field
        if record.compress_type != zipfile.ZIP_STORED or begin + record.file_size > self.size:
            raise zipfile.BadZipFile
        return begin, record.file_size, record.CRC

    def _content(self, name: str) -> bytes:
        if name not in self._records:
            raise BadInput(f"{self.path}: not a file of torch.save: it has no {name}")
        begin, size, crc = self._records[name]
        content = self.map[begin : begin + size]
        if zlib.crc32(content) != crc:
            raise BadInput(f"{self.path}: damaged: {name} does not have the checksum that it was written with")
        return content

    def _check_byte_order(self) -> None:
        if "byteorder" in self._records and self._content("byteorder") != b"little":
            raise BadInput(f"{self.path}: not written on a little-endian machine")

    def _unpickle(self, pickled: bytes) -> dict[str, Strided]:
        try:
            content = _TensorUnpickler(io.BytesIO(pickled)).load()
        except _UNREADABLE as error:
            raise BadInput(f"{self.path}: not a plain dict of tensors: {error}") from None
        if not isinstance(content, dict):
            raise BadInput(f"{self.path}: holds a {type(content).__name__}, not a dict of tensors")
        for name, value in content.items():
            if not isinstance(name, str):
                raise BadInput(f"{self.path}: an entry has a {type(name).__name__} as its name")
            if not isinstance(value, Strided):
                raise BadInput(f"{self.path}: entry {name} is a {type(value).__name__}, not a tensor")
        return dict(content)

    def _check(self, name: str, tensor: Strided) -> None:
        _, size, _ = self._records.get(f"data/{tensor.record}", (0, 0, 0))
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.start + sum((count - 1) * stride for count, stride in steps)
        # A stride of 0 repeats an element: such a tensor may be larger than what is stored, and than any memory.
        elements = max(last + 1, math.prod(tensor.shape))
        if 0 in tensor.shape or elements * BIT_TYPES[tensor.dtype].itemsize > size:
            raise BadInput(f"{self.path}: the data of tensor {name} is not in the file")


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, OverflowError, struct.error):
        raise BadInput(f"{path}: not a file of torch.save, or damaged or cut off") from None


def _name(record: zipfile.ZipInfo) -> str:
    """Without the archive's folder, which torch names after the file."""
    return record.filename.partition("/")[2]


class TorchZipWriter:
    """Writes a file of torch.save for a dict whose tensors are known beforehand.

    The pieces of one tensor come in their order and from one thread at a time, those of several
    tensors may mix: the checksum of a record is made as its bytes pass. `close` makes the file whole.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._records: list[_Record] = []
        self._end = 0
        self._add_whole("data.pkl", _pickled(specs))
        self._add_whole("byteorder", b"little")
        self._tensors = {name: self._add(f"data/{n}", spec.nbytes) for n, (name, spec) in enumerate(specs.items())}
        self._add_whole("version", b"3\n")

    def write(self, name: str, offset: int, bits: np.ndarray) -> None:
        """Append contiguous `bits`; `offset` is the number of bytes of this tensor written so far."""
        self._append(self._tensors[name], offset, bits.data)

    def close(self) -> None:
        for record in self._records:
            if record.written != record.size:
                raise ValueError(f"{record.name.decode()}: {record.written} of {record.size} bytes were written")
            write_all(self._descriptor, record.local_header(), record.header)
        directory = b"".join(record.central_header() for record in self._records)
        end = _end_of_archive(len(self._records), self._end, len(directory))
        write_all(self._descriptor, directory + end, self._end)
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _add(self, name: str, size: int) -> _Record:
        record = _Record(f"{_FOLDER}/{name}".encode(), size, self._end)
        self._records.append(record)
        self._end = record.data + size
        return record

    def _add_whole(self, name: str, content: bytes) -> None:
        self._append(self._add(name, len(content)), 0, content)

    def _append(self, record: _Record, offset: int, content: memoryview | bytes) -> None:
        if offset != record.written:
            raise ValueError(f"{record.name.decode()}: piece at {offset}, expected at {record.written}")
        record.crc = zlib.crc32(content, record.crc)
        write_all(self._descriptor, content, record.data + offset)
        record.written += memoryview(content).nbytes


class _Record:
    """One entry of the archive: its header begins at `header`, its data at `data`."""

    def __init__(self, name: bytes, size: int, header: int) -> None:
        self.name, self.size, self.header = name, size, header
        self.crc = self.written = 0
        unpadded = header + _LOCAL_HEADER.size + len(name) + 20 + 4  # 20: sizes in 64 bits, 4: the padding's own header
        self._padding = -unpadded % _ALIGNMENT
        self.data = unpadded + self._padding

    def local_header(self) -> bytes:
        extra = struct.pack("<2H2Q", 1, 16, self.size, self.size)
        extra += struct.pack("<2sH", b"FB", self._padding) + bytes(self._padding)
        sizes = self.crc, _IN_EXTRA, _IN_EXTRA, len(self.name), len(extra)
        return _LOCAL_HEADER.pack(b"PK\3\4", _NEEDS_ZIP64, 0, 0, 0, 0, *sizes) + self.name + extra

    def central_header(self) -> bytes:
        extra = struct.pack("<2H3Q", 1, 24, self.size, self.size, self.header)
        sizes = self.crc, _IN_EXTRA, _IN_EXTRA, len(self.name), len(extra), 0, 0, 0, 0, _IN_EXTRA
        return _CENTRAL_HEADER.pack(b"PK\1\2", _NEEDS_ZIP64, _NEEDS_ZIP64, 0, 0, 0, 0, *sizes) + self.name + extra


_INSTRUCTIONS = pickle._Unpickler.dispatch  # pyright: ignore[reportAttributeAccessIssue]
_TUPLES = (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)


def _shallow(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The instruction that makes a tuple, refusing what is nested deeper than the arguments of a tensor."""

    def load_tuple(unpickler: Any) -> None:
        load(unpickler)
        inner = (item for item in unpickler.stack[-1] if isinstance(item, tuple))
        if any(isinstance(item, tuple) for items in inner for item in items):
            raise pickle.UnpicklingError("tuples are nested too deeply")

    return load_tuple


class _TensorUnpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    """Reads a dict of tensors and refuses every name that such a pickle does not need.

    It is Python's own reader in Python, since that in C cannot be stopped: tuples that are nested a million times end
    the process when they are hashed.
    """

    dispatch = {**_INSTRUCTIONS, **{code[0]: _shallow(_INSTRUCTIONS[code[0]]) for code in _TUPLES}}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        for dtype, storage in STORAGES.items():
            if (module, name) == ("torch", storage):
                return dtype
        raise pickle.UnpicklingError(f"{module}.{name} is refused")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, record, _device, _numel = pid
        if kind != "storage" or dtype not in STORAGES or not isinstance(record, str):
            raise pickle.UnpicklingError("a reference to something other than a storage")
        return dtype, record


def _rebuild_tensor(storage: Any, start: Any, shape: Any, strides: Any, *_flags: Any) -> Strided:
    dtype, record = storage
    if not len(shape) == len(strides) <= _MOST_DIMENSIONS or not all(
        type(n) is int and n >= 0 for n in (start, *shape, *strides)
    ):
        raise pickle.UnpicklingError("a tensor with an impossible shape")
    return Strided(dtype, tuple(shape), record, start, tuple(strides))


def _pickled(specs: Mapping[str, TensorSpec]) -> bytes:
    """data.pkl, opcode by opcode: pickle itself would have to import torch to name its functions."""
    items = b"".join(_text(name) + _tensor(str(n), spec) for n, (name, spec) in enumerate(specs.items()))
    return pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor(record: str, spec: TensorSpec) -> bytes:
    """_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks)"""
    count = math.prod(spec.shape)
    strides = [math.prod(spec.shape[axis + 1 :]) for axis in range(len(spec.shape))]
    storage = _tuple(_text("storage"), _global("torch", STORAGES[spec.dtype]), _text(record), _text("cpu"), _int(count))
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    sizes = _tuple(*map(_int, spec.shape)), _tuple(*map(_int, strides))
    arguments = _tuple(storage + pickle.BINPERSID, _int(0), *sizes, pickle.NEWFALSE, hooks)
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data


def _end_of_archive(records: int, start: int, size: int) -> bytes:
    """The three closing structures: the 64-bit end record, its locator, the 32-bit end record."""
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, _NEEDS_ZIP64, _NEEDS_ZIP64, 0, 0, records, records, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
    return end + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _IN_EXTRA, _IN_EXTRA, 0)
