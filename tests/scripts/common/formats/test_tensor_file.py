"""Files of tensors: what is mapped, and writing more than a system call takes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.formats.dtypes import TensorSpec
from common.formats.safetensors_file import SafetensorsFile
from common.formats.tensor_file import StoredTensor, TensorFile, write_all
from common.program import BadInput


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), (b"", "the file is empty")])
def test_a_file_that_cannot_be_mapped_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput, match=f"{tmp_path}/x: {message}"):
        TensorFile(tmp_path / "x")


def test_a_stored_tensor_is_read_again_after_its_pages_were_released(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 3)}, tmp_path / "x")
    stored = StoredTensor(SafetensorsFile(tmp_path / "x"), "a")
    assert stored.spec == TensorSpec("F32", (2, 3))
    before = stored.bits().copy()
    stored.file.release()
    assert np.array_equal(stored.bits(), before)
    with pytest.raises(ValueError, match="read-only"):
        stored.bits()[0] = 0


def test_data_is_written_at_its_offset_whatever_its_type(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        write_all(file.fileno(), np.arange(4, dtype="<u2").data, 4)
        write_all(file.fileno(), b"abcd", 0)
    assert (tmp_path / "x").read_bytes() == b"abcd" + np.arange(4, dtype="<u2").tobytes()


def test_a_system_call_that_writes_less_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:3], offset))
    with (tmp_path / "x").open("wb") as file:
        write_all(file.fileno(), bytes(range(10)), 2)
    assert (tmp_path / "x").read_bytes() == b"\0\0" + bytes(range(10))
