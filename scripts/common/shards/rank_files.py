"""The rank files of a tensor-parallel checkpoint, read together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.formats import streaming
from common.formats.dtypes import TensorSpec
from common.formats.safetensors_file import SafetensorsWriter
from common.formats.torch_file import TorchZipFile
from common.program import BadInput
from common.shards import layout
from common.shards.layout import Placement, Segment


def open_ranks(folder: Path, tp_size: int) -> list[TorchZipFile]:
    """Open the files of `tp_size` ranks. Raises BadInput if one is missing or unreadable, or there are others."""
    paths = [folder / layout.shard_name(rank) for rank in range(tp_size)]
    others = set(folder.glob("*.pt")).difference(paths)
    if others:
        raise BadInput(f"{min(others)}: a rank file too many for tp_size {tp_size}")
    return [TorchZipFile(path) for path in paths]


def check_ranks(shards: Sequence[TorchZipFile], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise BadInput unless every rank has exactly the `expected` tensors, with the same types as rank 0."""
    for shard in shards:
        layout.check_tensors(shard.path, shard.specs, expected)
        for name, spec in shard.specs.items():
            if spec.dtype != shards[0].specs[name].dtype:
                raise BadInput(f"{shard.path}: tensor {name} is {spec.dtype}, in rank 0 {shards[0].specs[name].dtype}")


def piece(shards: Sequence[TorchZipFile], place: Placement, segment: Segment) -> np.ndarray:
    """The bit patterns of one segment, memory-mapped."""
    span = slice(segment.shard_start, segment.shard_start + segment.length)
    bits = shards[segment.rank].bits(place.key)
    return bits[:, span] if place.axis == 1 else bits[span]


def gather(
    shards: Sequence[TorchZipFile],
    places: Mapping[str, Placement],
    specs: Mapping[str, TensorSpec],
    writer: SafetensorsWriter,
) -> None:
    """Write the full tensors, taking each piece from the first rank that has it."""
    count = streaming.ByteCount(sum(spec.nbytes for spec in specs.values()))

    def copy(name: str) -> None:
        offset = 0
        for tile in _joined(shards, places[name]):
            writer.write(name, offset, tile)
            offset += tile.nbytes
            count.add(tile.nbytes)
            for shard in shards:
                shard.release()

    streaming.each(copy, list(places))


def _joined(shards: Sequence[TorchZipFile], place: Placement) -> Iterator[np.ndarray]:
    """The tensor in tiles of whole rows, from first to last."""
    pieces = [piece(shards, place, segment) for segment in place.first_copies()]
    for side_by_side in [pieces] if place.axis == 1 else [[part] for part in pieces]:
        row_bytes = sum(part[0].nbytes for part in side_by_side)
        for start, stop in streaming.row_ranges(len(side_by_side[0]), row_bytes):
            tile = np.concatenate([part[start:stop] for part in side_by_side], axis=-1)
            yield np.ascontiguousarray(tile)  # upstream saves o_proj column by column
