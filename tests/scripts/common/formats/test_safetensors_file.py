"""safetensors files, against the library that everyone uses, and damaged in each place."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.formats.dtypes import TensorSpec
from common.formats.safetensors_file import INDEX, SINGLE, SafetensorsFile, SafetensorsWriter, open_model
from common.program import BadInput

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
    "c": torch.tensor(7.0, dtype=torch.float16),
}


def file_of(folder: Path, header: object, data: bytes = b"") -> Path:
    """A file with a header of its own."""
    text = json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_what_the_library_wrote_is_read_bit_for_bit(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.specs == {"a": TensorSpec("F32", (2, 3)), "b": TensorSpec("BF16", (2,)), "c": TensorSpec("F16", ())}
    for name, tensor in TENSORS.items():
        assert np.array_equal(file.bits(name), tensor.view(getattr(torch, f"uint{8 * tensor.itemsize}")).numpy())


def test_the_library_reads_what_was_written_in_pieces_of_any_order(tmp_path: Path) -> None:
    specs = {"a": TensorSpec("F32", (2, 3)), "b": TensorSpec("F32", (1,))}
    writer = SafetensorsWriter(tmp_path / "x.safetensors", specs)
    writer.write("b", 0, np.array([9], "<f4"))
    writer.write("a", 12, np.array([3, 4, 5], "<f4"))
    writer.write("a", 0, np.array([0, 1, 2], "<f4"))
    writer.close()
    read = load_file(tmp_path / "x.safetensors")
    assert torch.equal(read["a"], TENSORS["a"]) and read["b"].tolist() == [9.0]


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234567", "cut off 1 bytes"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234", "of 8 bytes has 4 in the header"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678", "starts at 4 in the data"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345", "1 bytes after the last tensor"),
        ({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"12345678", "has type I64, only"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234", "no usable dtype, shape"),
        ({"a": 3}, b"", "no usable dtype, shape"),
        ([], b"", "its header is not a JSON object"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    path = file_of(tmp_path, header, data)
    with pytest.raises(BadInput, match=message) as refused:
        SafetensorsFile(path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"\xff" * 20, struct.pack("<Q", 4) + b"{no}", struct.pack("<Q", 500) + b"{}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput, match="not a safetensors file"):
        SafetensorsFile(tmp_path / "x")


def model_of(folder: Path, weight_map: object, **files: list[str]) -> Path:
    """A model folder: the tensors of each file, and what the index says."""
    for name, tensors in files.items():
        save_file({tensor: torch.zeros(1) for tensor in tensors}, folder / f"{name}.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_a_model_is_one_file_or_those_of_its_index(tmp_path: Path) -> None:
    names = {"a": "one.safetensors", "b": "two.safetensors"}
    assert open_model(model_of(tmp_path, names, one=["a"], two=["b"])).keys() == {"a", "b"}
    save_file({"c": torch.zeros(1)}, tmp_path / SINGLE)
    assert open_model(tmp_path).keys() == {"c"}


@pytest.mark.parametrize(
    ("weight_map", "files", "message"),
    [
        ({"a": "one.safetensors", "b": "one.safetensors"}, {"one": ["a"]}, "tensor b is missing"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, {"one": ["a", "b"], "two": ["b"]}, "tensor b is also in"),
        ({"a": "two.safetensors"}, {}, "two.safetensors: no such file"),
        ({"a": "../one.safetensors"}, {}, "does not map tensor names to file names"),
        ({}, {}, "does not map tensor names to file names"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path: Path, weight_map, files, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_model(model_of(tmp_path, weight_map, **files))


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"neither {SINGLE} nor {INDEX} is there"):
        open_model(tmp_path)
