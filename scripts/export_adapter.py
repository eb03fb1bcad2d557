"""Gather a sharded LoRA adapter into a PEFT folder, which PEFT, vLLM and NxD Inference load directly.

Input: the base model (a Hugging Face folder) and the output folder of the training stage: NxD's sharded adapter
(layout.json, lora_adapter/), or the PEFT folder that optimum-neuron consolidates (adapter/).
Output: OUTPUT/adapter with adapter_config.json and adapter_model.safetensors; with --merge also OUTPUT/merged, the
base model with the adapter merged into its weights, for servers without LoRA support.

Every adapter tensor must belong to a module of the base model, be finite, and agree with its copies on other ranks.
An adapter that changes nothing is an error. Memory does not grow with the model.

Example: export_adapter.py --model llama/ --adapter trained/ --output exported/ --merge
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before importing NumPy: streaming already uses threads

import numpy as np

from common import program
from common.files import check_free_space, read_json
from common.formats import peft_folder, streaming
from common.formats.dtypes import TensorSpec, all_finite, from_float32, to_float32
from common.formats.peft_folder import LoraConfig, number
from common.formats.safetensors_file import SafetensorsFile, SafetensorsWriter, open_model
from common.formats.tensor_file import StoredTensor, TensorFile
from common.formats.torch_file import TorchZipFile
from common.program import BadInput, StageFailed
from common.shards import layout as layouts
from common.shards import rank_files
from common.shards.layout import PROJECTIONS, ModelShape, Placement, Segment, ShardLayout
from common.shards.llama_folder import open_llama

WEIGHTS = (".safetensors", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".h5", ".msgpack")

# How far copies on different ranks may differ, relative to their Frobenius norm. They get the same updates, but with
# stochastic rounding each bfloat16 copy is rounded independently, by at most 2**-8 per step.
COPY_TOLERANCE = 0.01


@dataclass(frozen=True)
class ShardedAdapter:
    """The rank files of an adapter, and the placement in them of each tensor of the PEFT file."""

    ranks: list[TorchZipFile]
    projections: tuple[str, ...]  # keys of PROJECTIONS
    places: dict[str, Placement]
    specs: dict[str, TensorSpec]

    def floats(self, name: str, segment: Segment) -> np.ndarray:
        """One piece of a PEFT tensor as float32."""
        return to_float32(rank_files.piece(self.ranks, self.places[name], segment), self.specs[name].dtype)


@dataclass(frozen=True)
class Update:
    """The update of a base weight: scale * lora_b @ lora_a, float32 of shapes (out, r) and (r, in)."""

    base: StoredTensor
    lora_a: np.ndarray
    lora_b: np.ndarray
    scale: float

    def apply(self, bits: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the merged weight, in the base's data type. Raises StageFailed on overflow."""
        dtype = self.base.spec.dtype
        total = (self.scale * self.lora_b[start:stop]) @ self.lora_a
        total += to_float32(bits[start:stop], dtype)
        merged = from_float32(total, dtype)
        if not all_finite(merged, dtype):
            raise StageFailed(f"{self.base.file.path}: {self.base.name} overflows {dtype} when the adapter is merged")
        return merged


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--model", type=program.existing_folder, required=True, help="folder of the base model")
    parser.add_argument("--adapter", type=program.existing_folder, required=True, help="output folder of the training")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--merge", action="store_true", help="also write the merged model")
    return parser


def run(args: argparse.Namespace) -> None:
    """Export the adapter from the format it was trained in and, with --merge, merge it."""
    export = _export_peft if (args.adapter / "adapter").is_dir() else _export_sharded
    scale = export(args)
    if args.merge:
        merge(args.model, SafetensorsFile(args.output / "adapter" / peft_folder.WEIGHTS), scale, args.output / "merged")


def _export_sharded(args: argparse.Namespace) -> float:
    """Gather NxD's shards into OUTPUT/adapter; returns the adapter's scale."""
    shape = layouts.read_shape(args.model)
    base = open_llama(args.model, shape)
    config = read_config(args.adapter / "lora_adapter" / peft_folder.CONFIG)
    adapter = open_adapter(args.adapter, shape, config)
    check_values(adapter)
    adapter = only_trained(adapter)
    check_output(args.output, base if args.merge else {}, adapter.specs)
    write_adapter(adapter, config, str(args.model), args.output / "adapter")
    return config.scale


def _export_peft(args: argparse.Namespace) -> float:
    """Copy a PEFT folder that fits the base model, of any architecture, to OUTPUT/adapter; returns its scale."""
    source = args.adapter / "adapter"
    config = peft_folder.read_config(source / peft_folder.CONFIG)
    peft_folder.check_adapter(source, args.model)
    weights = SafetensorsFile(source / peft_folder.WEIGHTS)
    for name, spec in weights.specs.items():
        if not all_finite(weights.bits(name), spec.dtype):
            raise StageFailed(f"{weights.path}: {name} has infinite or NaN values: the training diverged")
    check_output(args.output, open_model(args.model) if args.merge else {}, weights.specs)
    folder = args.output / "adapter"
    folder.mkdir(parents=True)
    shutil.copyfile(weights.path, folder / peft_folder.WEIGHTS)
    write_config(folder, config, str(args.model), config.targets)
    return config.scale


def read_config(path: Path) -> LoraConfig:
    """The LoraConfig in NxD's adapter_config.json. Raises BadInput for settings without an equivalent in PEFT."""
    content = read_json(path)
    if content.get("bias", "none") != "none":
        raise BadInput(f"{path}: bias {content['bias']!r} is not supported, only none")
    rank, alpha, dropout = (number(path, content, key) for key in ("lora_rank", "lora_alpha", "lora_dropout"))
    if rank != int(rank) or rank < 1:
        raise BadInput(f"{path}: lora_rank {rank} is not a whole number from 1")
    targets = content.get("target_modules")
    if not isinstance(targets, list) or not targets:
        raise BadInput(f"{path}: target_modules {targets!r} is not a list of module names")
    modules = tuple(_module(path, name) for name in targets)
    return LoraConfig(int(rank), alpha, dropout, bool(content.get("use_rslora")), modules)


def open_adapter(folder: Path, shape: ModelShape, config: LoraConfig) -> ShardedAdapter:
    """The adapter in `folder`. Raises BadInput if it is incomplete or its shapes do not fit the base model."""
    if not (folder / "lora_adapter" / "lora" / "done").is_file():
        raise BadInput(f"{folder / 'lora_adapter' / 'lora'}: no file `done`: the adapter was not saved completely")
    layout = layouts.read_layout(folder)
    layouts.check_divisible(shape, layout)
    ranks = rank_files.open_ranks(folder / "lora_adapter" / "lora" / "model", layout.tp_size)
    projections = _targeted(ranks[0], config)
    places, whole = {}, {}
    for name, size, place in _peft_tensors(shape, layout, _LoraA(ranks[0], config.rank, projections)):
        places[name], whole[name] = place, size
    rank_files.check_ranks(ranks, layouts.cut_shapes(places, whole))
    specs = {name: TensorSpec(ranks[0].specs[place.key].dtype, whole[name]) for name, place in places.items()}
    return ShardedAdapter(ranks, projections, places, specs)


def check_values(adapter: ShardedAdapter) -> None:
    """Raise StageFailed unless all values are finite, copies agree, and the adapter changes something."""
    for name, place in adapter.places.items():
        for segment in place.segments:
            if not all_finite(rank_files.piece(adapter.ranks, place, segment), adapter.specs[name].dtype):
                path = adapter.ranks[segment.rank].path
                raise StageFailed(f"{path}: {place.key} has infinite or NaN values: the training diverged")
        for segment, first in place.further_copies():
            _check_copy(adapter, name, segment, first)
        for rank in adapter.ranks:
            rank.release()
    if all(_is_zero(adapter, name) for name in adapter.places if ".lora_B." in name):
        raise StageFailed(f"{adapter.ranks[0].path.parent}: all lora_B are zero: the adapter changes nothing")


def only_trained(adapter: ShardedAdapter) -> ShardedAdapter:
    """The adapter without projections whose lora_B is zero in every layer: they were not targeted.

    NxD stores gate and up together, and q, k and v; the trainers leave at zero those that are not targeted.
    """

    def trained(projection: str) -> bool:
        return not all(_is_zero(adapter, name) for name in adapter.places if f".{projection}.lora_B." in name)

    kept = tuple(name for name in adapter.projections if trained(name))
    markers = [f".{projection}.lora_" for projection in kept]
    places = {name: place for name, place in adapter.places.items() if any(marker in name for marker in markers)}
    return replace(adapter, projections=kept, places=places, specs={name: adapter.specs[name] for name in places})


def check_output(output: Path, base: Mapping[str, StoredTensor], adapter: Mapping[str, TensorSpec]) -> None:
    """Raise BadInput if the output already exists, or the disk has too little space."""
    for folder in (output / "adapter", output / "merged"):
        if folder.exists():
            raise BadInput(f"--output {output}: already contains {folder.name}; name another folder")
    specs = [*adapter.values(), *(tensor.spec for tensor in base.values())]
    check_free_space(output, sum(spec.nbytes for spec in specs))


def write_adapter(adapter: ShardedAdapter, config: LoraConfig, base_model: str, folder: Path) -> None:
    """Write the PEFT folder."""
    folder.mkdir(parents=True)
    writer = SafetensorsWriter(folder / peft_folder.WEIGHTS, adapter.specs)
    rank_files.gather(adapter.ranks, adapter.places, adapter.specs, writer)
    writer.close()
    write_config(folder, config, base_model, [name.partition(".")[2] for name in adapter.projections])


def write_config(folder: Path, config: LoraConfig, base_model: str, targets: Sequence[str]) -> None:
    """Write PEFT's adapter_config.json."""
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "target_modules": list(targets),
        "bias": "none",
    }
    (folder / peft_folder.CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def merge(model: Path, adapter: SafetensorsFile, scale: float, output: Path) -> None:
    """Write the model with scale * B @ A added to its weights, in the same files, and copy its other files.

    The sum is computed in float32 and rounded to the weight's data type. Raises StageFailed if that overflows, or
    changes no weight.
    """
    output.mkdir(parents=True)
    tensors = open_model(model)
    count = streaming.ByteCount(sum(tensor.spec.nbytes for tensor in tensors.values()))
    files = {tensor.file.path: tensor.file for tensor in tensors.values()}
    changed = [_merge_file(file, adapter, scale, output, count) for file in files.values()]
    if not any(changed):
        raise StageFailed(f"{adapter.path}: its updates are too small to change any weight in the model's data type")
    for path in model.iterdir():
        if path.is_file() and not path.name.endswith(WEIGHTS):
            shutil.copyfile(path, output / path.name)


def _merge_file(
    file: TensorFile, adapter: SafetensorsFile, scale: float, output: Path, count: streaming.ByteCount
) -> bool:
    """Write one file of the merged model; returns whether a weight changed."""
    writer = SafetensorsWriter(output / file.path.name, file.specs)

    def copy(name: str) -> bool:
        bits, changed = file.bits(name), False
        update = _update(adapter, StoredTensor(file, name), scale)
        # Tiles that are small as float32: one of 2 MB comes anew from the system each time, at 4 times the cost.
        for start, stop in streaming.row_ranges(len(bits), 4 * bits[0].size):
            tile = update.apply(bits, start, stop) if update else bits[start:stop]
            writer.write(name, start * bits[0].nbytes, tile)
            changed = changed or update is not None and not np.array_equal(tile, bits[start:stop])
            count.add(tile.nbytes)
            file.release()
        adapter.release()
        return changed

    changed = streaming.each(copy, list(file.specs))
    writer.close()
    return any(changed)


def _update(adapter: SafetensorsFile, tensor: StoredTensor, scale: float) -> Update | None:
    """The adapter's update of a tensor of the base model; None if it is not targeted."""
    names = [_peft_name(tensor.name.removesuffix(".weight"), part) for part in ("lora_A", "lora_B")]
    if names[0] not in adapter.specs:
        return None
    lora_a, lora_b = (to_float32(adapter.bits(name), adapter.specs[name].dtype) for name in names)
    return Update(tensor, lora_a, lora_b, scale)


def _check_copy(adapter: ShardedAdapter, name: str, segment: Segment, first: Segment) -> None:
    copy, original = adapter.floats(name, segment), adapter.floats(name, first)
    difference, norm = np.linalg.norm(copy - original), np.linalg.norm(original)
    if difference > COPY_TOLERANCE * norm:
        raise StageFailed(
            f"{adapter.ranks[segment.rank].path}: {adapter.places[name].key} differs from rank {first.rank}'s copy "
            f"by {difference / norm if norm else math.inf:.1%}: the ranks were not trained together"
        )


def _is_zero(adapter: ShardedAdapter, name: str) -> bool:
    return not any(adapter.floats(name, segment).any() for segment in adapter.places[name].segments)


def _targeted(rank: TorchZipFile, config: LoraConfig) -> tuple[str, ...]:
    """The projections in the adapter's target modules that have a lora_B in the rank file."""
    stored = {key.partition(".layers.")[2].partition(".")[2] for key in rank.specs}  # without the layer's number
    targeted = {
        name: target
        for name, target in PROJECTIONS.items()
        if target.module in config.targets and f"{target.module}.lora_B.{target.parameter}" in stored
    }
    for module in config.targets:
        if module not in {target.module for target in targeted.values()}:
            raise BadInput(f"{rank.path}: has no lora_B for target module {module}")
    return tuple(targeted)


@dataclass(frozen=True)
class _LoraA:
    """The rows of each projection's lora_A in its fused module: all the same, or one below the other."""

    file: TorchZipFile
    rank: int
    projections: tuple[str, ...]

    def start(self, projection: str, key: str) -> int:
        """The first row of a projection's lora_A in the tensor `key`."""
        stored = self.file.specs.get(key)
        if stored is None or stored.shape[0] == self.rank:
            return 0
        module = PROJECTIONS[projection].module
        return self.rank * [name for name in self.projections if PROJECTIONS[name].module == module].index(projection)


def _peft_tensors(
    shape: ModelShape, layout: ShardLayout, lora_a: _LoraA
) -> Iterator[tuple[str, tuple[int, int], Placement]]:
    """(name, shape, place) of every tensor of the PEFT file.

    In a column-parallel layer lora_B (out, r) is sharded like the rows of its projection; in a row-parallel layer
    lora_A (r, in) is sharded like its columns. The other of the two is replicated on all ranks.
    """
    lora_rank = lora_a.rank
    for layer in range(shape.num_hidden_layers):
        for name in lora_a.projections:
            target, (out_features, in_features) = PROJECTIONS[name], shape.projection(name)
            key, module = f"model.layers.{layer}.{target.module}", f"model.layers.{layer}.{name}"
            sharded = layouts.projection_segments(shape, layout, name)
            if target.axis == 1:
                part_a, part_b = sharded, _replicated(layout, out_features)
            else:
                start = lora_a.start(name, f"{key}.lora_A.weight")
                part_a, part_b = _replicated(layout, lora_rank, start), sharded
            place_a = Placement(f"{key}.lora_A.weight", target.axis, part_a)
            place_b = Placement(f"{key}.lora_B.{target.parameter}", 0, part_b)
            yield _peft_name(module, "lora_A"), (lora_rank, in_features), place_a
            yield _peft_name(module, "lora_B"), (out_features, lora_rank), place_b


def _replicated(layout: ShardLayout, rows: int, shard_start: int = 0) -> tuple[Segment, ...]:
    return tuple(Segment(rank, shard_start, 0, rows) for rank in range(layout.tp_size))


def _peft_name(module: str, part: str) -> str:
    return f"{peft_folder.PREFIX}{module}.{part}.weight"


def _module(path: Path, target: object) -> str:
    """The module of PROJECTIONS that an entry of target_modules names, in full or by its last part."""
    for projection in PROJECTIONS.values():
        if target in (projection.module, projection.module.partition(".")[2]):
            return projection.module
    known = ", ".join(dict.fromkeys(projection.module.partition(".")[2] for projection in PROJECTIONS.values()))
    raise BadInput(f"{path}: target_modules has {target!r}, which is not one of {known}")


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
