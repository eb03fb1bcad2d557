"""Rank files are read together: which files there must be, and the tensors that they make. See also
tests/scripts/test_export_adapter.py and test_convert_checkpoint.py, which gather whole models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.formats.dtypes import TensorSpec
from common.formats.safetensors_file import SafetensorsFile, SafetensorsWriter
from common.program import BadInput
from common.shards.layout import ShardLayout, placements, shard_name
from common.shards.rank_files import check_ranks, gather, open_ranks
from tests.scripts.llama_files import TINY

QUERY = "model.layers.0.self_attn.q_proj.weight"
OUTPUT = "model.layers.0.self_attn.o_proj.weight"


def write(folder: Path, *ranks: dict[str, torch.Tensor]) -> Path:
    for rank, tensors in enumerate(ranks):
        torch.save(tensors, folder / shard_name(rank))
    return folder


def test_every_rank_has_a_file_and_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path, {"a": torch.ones(1)}, {"a": torch.ones(1)})
    assert len(open_ranks(tmp_path, 2)) == 2
    with pytest.raises(BadInput, match=f"{shard_name(1)}: a rank file too many for tp_size 1"):
        open_ranks(tmp_path, 1)
    with pytest.raises(BadInput, match=f"{shard_name(2)}: no such file"):
        open_ranks(tmp_path, 3)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"a": torch.ones(2, dtype=torch.bfloat16)}, "tensor a is BF16, in rank 0 F32"),
        ({"a": torch.ones(3)}, r"a has shape \[3\]"),
        ({}, "a is missing"),
    ],
)
def test_ranks_must_agree(tmp_path: Path, second: dict[str, torch.Tensor], message: str) -> None:
    shards = open_ranks(write(tmp_path, {"a": torch.ones(2)}, second), 2)
    with pytest.raises(BadInput, match=message):
        check_ranks(shards, {"a": (2,)})


def test_rows_and_columns_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without fused layers, so that a placement is a plain cut into two halves."""
    places = {
        name: place for name, place in placements(TINY, ShardLayout(2, 1, "trn2")).items() if name in (QUERY, OUTPUT)
    }
    monkeypatch.setattr("common.formats.streaming.TILE_BYTES", 50)
    ranks: list[dict[str, torch.Tensor]] = [{}, {}]
    full = {name: torch.zeros(TINY.tensors()[name]) for name in places}
    for name, place in places.items():
        for rank in range(2):
            segments = [segment for segment in place.first_copies() if segment.rank == rank]
            length = max(segment.shard_start + segment.length for segment in segments)
            size = [*full[name].shape]
            size[place.axis or 0] = length
            part = torch.randn(size)
            ranks[rank][place.key] = part
            for segment in segments:
                target = full[name].narrow(place.axis or 0, segment.start, segment.length)
                target.copy_(part.narrow(place.axis or 0, segment.shard_start, segment.length))
    specs = {name: TensorSpec("F32", tuple(tensor.shape)) for name, tensor in full.items()}
    writer = SafetensorsWriter(tmp_path / "full.safetensors", specs)
    gather(open_ranks(write(tmp_path, *ranks), 2), places, specs, writer)
    writer.close()
    read = SafetensorsFile(tmp_path / "full.safetensors")
    for name, tensor in full.items():
        assert np.array_equal(read.bits(name).view(np.float32), tensor.numpy()), name
