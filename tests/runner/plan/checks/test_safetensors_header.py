"""The plan's reader of safetensors headers, against the library that writes them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from runner.plan.checks import safetensors_header


def test_entries_and_the_place_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, file, metadata={"format": "pt"})
    entries, data = safetensors_header.read(file)
    assert entries == {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    assert file.read_bytes()[data:] == np.arange(6, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b'{"a": 3}', b'{"a": {"shape": 1, "data_offsets": [0, 4]}}', b'{"a": ' + b"[" * 100_000,
        json.dumps({"a": {"shape": [1], "data_offsets": [0, 2**70]}}).encode(),
        json.dumps({"a": {"shape": [1], "data_offsets": [0]}}).encode(),
    ],
)  # fmt: skip
def test_anything_else_is_refused(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError):
        safetensors_header.read(file)


def test_a_length_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ValueError, match="a header of"):
        safetensors_header.read(file)
