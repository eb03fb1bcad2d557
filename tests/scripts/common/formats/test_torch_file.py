from __future__ import annotations

import contextlib
import io
import os
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.formats.dtypes import BIT_TYPES, TensorSpec
from common.formats.torch_file import TorchZipFile, TorchZipWriter
from common.program import BadInput
from tests.scripts.llama_files import same_bits

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

specs = st.builds(
    TensorSpec, st.sampled_from(sorted(BIT_TYPES)), st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)
)
named_specs = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), specs, max_size=5)


def random_bits(spec: TensorSpec, seed: int) -> np.ndarray:
    raw = np.random.default_rng(seed).bytes(spec.nbytes)
    return np.frombuffer(raw, BIT_TYPES[spec.dtype]).reshape(spec.shape)


def as_torch(bits: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(bits.copy().view(f"i{bits.itemsize}")).view(DTYPES[dtype])


def write(path: Path, tensors: dict[str, tuple[TensorSpec, np.ndarray]], rows: int = 1) -> Path:
    """Write the tensors `rows` rows at a time, one piece of each in turn."""
    writer = TorchZipWriter(path, {name: spec for name, (spec, _) in tensors.items()})
    for start in range(0, max((len(bits) for _, bits in tensors.values()), default=0), rows):
        for name, (_, bits) in tensors.items():
            if start < len(bits):
                writer.write(name, start * bits[0].nbytes, bits[start : start + rows])
    writer.close()
    return path


def small_file(folder: Path) -> Path:
    spec = TensorSpec("F32", (3, 4))
    return write(folder / "small.pt", {"weight": (spec, random_bits(spec, 0))})


@settings(max_examples=60, deadline=None)
@given(named_specs, st.integers(1, 40))
def test_torch_reads_what_is_written(named: dict[str, TensorSpec], rows: int) -> None:
    tensors = {name: (spec, random_bits(spec, seed)) for seed, (name, spec) in enumerate(named.items())}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "file.pt", tensors, rows)
        for loaded in (torch.load(path, weights_only=True), torch.load(path, weights_only=True, mmap=True)):
            assert list(loaded) == list(tensors)
            assert all(same_bits(loaded[name], as_torch(bits, spec.dtype)) for name, (spec, bits) in tensors.items())
            assert all(tensor.is_contiguous() for tensor in loaded.values())
        assert zipfile.ZipFile(path).testzip() is None
        ours = TorchZipFile(path)
        assert ours.specs == named
        assert all(np.array_equal(ours.bits(name), bits) for name, (_, bits) in tensors.items())


def test_data_is_aligned_and_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    begin = path.read_bytes().index(random_bits(TensorSpec("F32", (3, 4)), 0).tobytes())
    assert begin % 64 == 0
    content = bytearray(path.read_bytes())
    content[begin] ^= 1
    path.write_bytes(content)
    assert zipfile.ZipFile(path).testzip() == "archive/data/0"


@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_reads_what_torch_saves(tmp_path: Path, container: type) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    saved = container(transposed=whole.T, part=whole[1:3, 2:5], shared=whole, half=whole.half(), brain=whole.bfloat16())
    torch.save(saved, tmp_path / "file.pt")
    read = TorchZipFile(tmp_path / "file.pt")
    assert {name: spec.shape for name, spec in read.specs.items()} == {n: tuple(t.shape) for n, t in saved.items()}
    for name, tensor in saved.items():
        assert same_bits(as_torch(read.bits(name), read.specs[name].dtype), tensor)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("was-executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": Evil()}, "posix.mkdir is refused"),
        ({"weight": torch.nn.Parameter(torch.zeros(2))}, "_rebuild_parameter is refused"),
        ({"weight": torch.zeros(2, dtype=torch.int64)}, "LongStorage is refused"),
        ({"model": {"weight": torch.zeros(2)}}, "entry model is a dict, not a tensor"),
        ({"weight": 3}, "entry weight is a int, not a tensor"),
        ({5: torch.zeros(2)}, "an entry has a int as its name"),
        ([torch.zeros(2)], "holds a list, not a dict"),
        (torch.zeros(2), "not a dict of tensors"),
        ({"weight": torch.zeros(2, 0)}, "the data of tensor weight is not in the file"),
    ],
)
def test_anything_but_a_dict_of_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(BadInput, match=f"file.pt: .*{message}"):
        TorchZipFile(tmp_path / "file.pt")
    assert not (tmp_path / "was-executed").exists()


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records["archive/data.pkl"] = records["archive/data.pkl"].replace(
        pickle.LONG1 + b"\1\3" + pickle.LONG1 + b"\1\4", pickle.LONG1 + b"\1\4" + pickle.LONG1 + b"\1\4"
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    with pytest.raises(BadInput, match="the data of tensor weight is not in the file"):
        TorchZipFile(path)


def test_the_old_format_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(BadInput, match="old.pt: not a file of torch.save"):
        TorchZipFile(tmp_path / "old.pt")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = small_file(tmp_path).read_bytes()
    for size in range(0, len(content), 7):
        (tmp_path / "cut.pt").write_bytes(content[:size])
        with pytest.raises(BadInput, match="cut.pt"):
            TorchZipFile(tmp_path / "cut.pt")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_byte_never_ends_in_another_exception(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = small_file(Path(folder))
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            read = TorchZipFile(path)
        except BadInput:
            return
        assert all(read.bits(name).shape == spec.shape for name, spec in read.specs.items())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_a_garbage_pickle_never_ends_in_another_exception(garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\2" + garbage + b".")
        with contextlib.suppress(BadInput):
            assert TorchZipFile(path).specs == {}  # b"}" is a dict all the same


def test_pieces_out_of_order_and_unfinished_tensors_are_errors(tmp_path: Path) -> None:
    spec = TensorSpec("F32", (2, 4))
    writer = TorchZipWriter(tmp_path / "file.pt", {"weight": spec})
    with pytest.raises(ValueError, match="piece at 16, expected at 0"):
        writer.write("weight", 16, random_bits(spec, 0)[1:])
    writer.write("weight", 0, random_bits(spec, 0)[:1])
    with pytest.raises(ValueError, match="16 of 32 bytes were written"):
        writer.close()


def test_python_can_load_the_pickle_with_torch_itself(tmp_path: Path) -> None:
    """The hand-made opcodes are an ordinary pickle, not only one that torch's restricted reader accepts."""
    with zipfile.ZipFile(small_file(tmp_path)) as archive:
        pickled = archive.read("archive/data.pkl")

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: tuple[object, ...]) -> torch.TypedStorage:
            assert pid == ("storage", torch.FloatStorage, "0", "cpu", 12)
            return torch.storage.TypedStorage(12, dtype=torch.float32, _internal=True)

    loaded = Reader(io.BytesIO(pickled)).load()
    assert loaded["weight"].shape == (3, 4)
