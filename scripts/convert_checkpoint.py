"""Convert a Hugging Face Llama to tensor-parallel shards in neuronx-distributed's format, or back.

Input: a folder with config.json and safetensors weights, in one file or several with an index.
Output: OUTPUT/model/dp_rank_00_tp_rank_XX_pp_rank_00.pt for every rank, OUTPUT/config.json and OUTPUT/layout.json.
With --to-hf the reverse: INPUT contains the shards and config.json, OUTPUT gets model.safetensors and config.json.

All names and shapes are compared with config.json before anything is written. Element types are kept. Tied
embeddings are stored twice in the shards and once in the Hugging Face folder. Memory does not grow with the model.

If the ranks do not divide the vocabulary, it is padded with rows of zeros, which --to-hf takes off again.

The layouts only differ if K/V heads are replicated (--kv-size-multiplier above 1), which takes one rank per copy.
With at most as many ranks as K/V heads, both are plain slices.

Example: convert_checkpoint.py --input llama/ --output shards/ --tp-size 32 --layout trn2
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common import program
from common.files import check_free_space
from common.formats import safetensors_file, streaming
from common.formats.dtypes import TensorSpec
from common.formats.safetensors_file import SafetensorsWriter
from common.formats.tensor_file import StoredTensor
from common.formats.torch_file import TorchZipFile, TorchZipWriter
from common.program import BadInput
from common.shards import layout as layouts
from common.shards import rank_files
from common.shards.layout import EMBEDDING, LM_HEAD, ModelShape, Placement, ShardLayout
from common.shards.llama_folder import check_tied, open_llama


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--input", type=program.existing_folder, required=True, help="folder to read")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--tp-size", type=program.at_least(1), required=True, help="number of tensor-parallel ranks")
    parser.add_argument(
        "--kv-size-multiplier", type=program.at_least(1), help="copies of each K/V head (default: as few as fit)"
    )
    parser.add_argument("--layout", choices=layouts.LAYOUTS, required=True, help="accelerator to train on")
    parser.add_argument("--to-hf", action="store_true", help="read shards and write a Hugging Face folder")
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert in the direction that the flags select."""
    shape = layouts.read_shape(args.input)
    copies = args.kv_size_multiplier or layouts.fewest_copies(shape, args.tp_size)
    layout = ShardLayout(args.tp_size, copies, args.layout)
    layouts.check_divisible(shape, layout)
    if args.to_hf:
        to_hugging_face(args.input, args.output, shape, layout)
    else:
        to_shards(args.input, args.output, shape, layout)


def to_shards(source: Path, output: Path, shape: ModelShape, layout: ShardLayout) -> None:
    """Write the Hugging Face model in `source` as shards."""
    model = open_llama(source, shape)
    places = layouts.placements(shape, layout)
    specs = shard_specs(model, places, layouts.shard_shapes(shape, layout))
    check_output(output, layout.tp_size * sum(spec.nbytes for spec in specs.values()))
    (output / "model").mkdir(parents=True)
    paths = [output / "model" / layouts.shard_name(rank) for rank in range(layout.tp_size)]
    ranks = [TorchZipWriter(path, specs) for path in paths]
    scatter(model, places, ranks)
    pad_vocabulary(places, specs, ranks)
    streaming.each(TorchZipWriter.close, ranks)  # each waits for the disk
    shutil.copyfile(source / "config.json", output / "config.json")
    layouts.write_layout(output, layout)


def to_hugging_face(source: Path, output: Path, shape: ModelShape, layout: ShardLayout) -> None:
    """Write the shards in `source`/model as a Hugging Face folder."""
    ranks = open_shards(source, shape, layout)
    places = layouts.placements(shape, layout)
    check_copies(ranks, places)
    if shape.tie_word_embeddings:
        for rank in ranks:
            check_tied(StoredTensor(rank, LM_HEAD), StoredTensor(rank, EMBEDDING))
        del places[LM_HEAD]
    whole = shape.tensors()
    specs = {name: TensorSpec(ranks[0].specs[place.key].dtype, whole[name]) for name, place in places.items()}
    check_output(output, sum(spec.nbytes for spec in specs.values()))
    output.mkdir(parents=True, exist_ok=True)
    writer = SafetensorsWriter(output / safetensors_file.SINGLE, specs)
    rank_files.gather(ranks, places, specs, writer)
    writer.close()
    shutil.copyfile(source / "config.json", output / "config.json")


def shard_specs(
    model: Mapping[str, StoredTensor], places: Mapping[str, Placement], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorSpec]:
    """The tensors of one rank file. Raises BadInput if gate_proj and up_proj, which share a tensor, differ in type."""
    specs: dict[str, TensorSpec] = {}
    for name, place in places.items():
        spec = TensorSpec(model[name].spec.dtype, shapes[place.key])
        if specs.setdefault(place.key, spec) != spec:
            path, gate = model[name].file.path, specs[place.key].dtype
            raise BadInput(
                f"{path}: tensor {name} is {spec.dtype} but its gate_proj is {gate}: both share one tensor in a shard"
            )
    return specs


def open_shards(folder: Path, shape: ModelShape, layout: ShardLayout) -> list[TorchZipFile]:
    """All rank files in `folder`/model, checked against the config, layout.json (if any) and each other."""
    if (folder / "layout.json").is_file() and (stored := layouts.read_layout(folder)) != layout:
        raise BadInput(f"{folder / 'layout.json'}: these shards are {stored}, but the flags ask for {layout}")
    ranks = rank_files.open_ranks(folder / "model", layout.tp_size)
    rank_files.check_ranks(ranks, layouts.shard_shapes(shape, layout))
    return ranks


def check_copies(ranks: Sequence[TorchZipFile], places: Mapping[str, Placement]) -> None:
    """Raise BadInput if copies of a norm or K/V head differ: the layout is wrong, or the ranks were trained apart."""
    for name, place in places.items():
        for segment, first in place.further_copies():
            if not np.array_equal(rank_files.piece(ranks, place, segment), rank_files.piece(ranks, place, first)):
                raise BadInput(
                    f"{ranks[segment.rank].path}: its copy of {name} differs from that of rank {first.rank}: "
                    "try another --layout or --kv-size-multiplier"
                )
        for rank in ranks:
            rank.release()


def check_output(output: Path, needed: int) -> None:
    """Raise BadInput if the output folder already contains a model, or `needed` bytes are not free."""
    if (output / "model").exists() or (output / safetensors_file.SINGLE).exists():
        raise BadInput(f"--output {output}: already contains a model; name another folder")
    check_free_space(output, needed)


def scatter(
    model: Mapping[str, StoredTensor], places: Mapping[str, Placement], ranks: Sequence[TorchZipWriter]
) -> None:
    """Copy every tensor of the model into the rank files."""
    count = streaming.ByteCount(sum(model[name].spec.nbytes for name in places))

    def copy(names: Sequence[str]) -> None:
        for name in names:
            bits = model[name].bits()
            for start, stop in streaming.row_ranges(len(bits), bits[0].nbytes):
                for rank, offset, piece in _split(bits[start:stop], start, places[name]):
                    ranks[rank].write(places[name].key, offset, piece)
                count.add(bits[start:stop].nbytes)
                model[name].file.release()

    streaming.each(copy, _by_key(places))


def pad_vocabulary(
    places: Mapping[str, Placement], specs: Mapping[str, TensorSpec], ranks: Sequence[TorchZipWriter]
) -> None:
    """Fill the rows of the last ranks that are beyond the vocabulary with zeros."""
    for name in (EMBEDDING, LM_HEAD):
        tokens = {segment.rank: segment.length for segment in places[name].segments}
        rows, row_bytes = specs[name].shape[0], specs[name].nbytes // specs[name].shape[0]
        for rank, writer in enumerate(ranks):
            written = tokens.get(rank, 0)
            if written < rows:
                writer.write(name, written * row_bytes, np.zeros((rows - written) * row_bytes, np.uint8))


def _by_key(places: Mapping[str, Placement]) -> list[list[str]]:
    """Groups of tensor names with the same shard key, in the order of their rows: gate_proj and up_proj."""
    names: dict[str, list[str]] = {}
    for name, place in places.items():
        names.setdefault(place.key, []).append(name)
    return list(names.values())


def _split(tile: np.ndarray, start: int, place: Placement) -> Iterator[tuple[int, int, np.ndarray]]:
    """Split rows from `start` into (rank, offset in bytes in its shard of the tensor, contiguous piece).

    If columns are split, a rank has a single segment (layout.check_divisible), whose width is that of its rows.
    """
    for segment in place.segments:
        if place.axis == 1:
            piece = np.ascontiguousarray(tile[:, segment.start : segment.start + segment.length])
            yield segment.rank, start * piece[0].nbytes, piece
            continue
        first, last = max(start, segment.start), min(start + len(tile), segment.start + segment.length)
        if first < last:
            offset = (segment.shard_start + first - segment.start) * tile[0].nbytes
            yield segment.rank, offset, tile[first - start : last - start]


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
