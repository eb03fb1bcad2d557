"""Which part of a model each tensor-parallel rank holds: the shard format of neuronx-distributed (NxD).

A rank file maps NxD's names to its slices. Attention is cut at whole heads. When there are more ranks
than K/V heads, each K/V head is stored `kv_size_multiplier` times, one copy a rank, and the two
accelerator generations put the copies, and the query heads that belong to them, in different order:

    trn1   K0 K1 K0 K1    copies of a head lie num_key_value_heads ranks apart
    trn2   K0 K0 K1 K1    copies of a head lie on neighbouring ranks; query heads keep their order

The gradients of the copies are summed over just those ranks, so the order has to be the accelerator's.

All ranks have as many rows of the embedding and of the output layer. Where the ranks do not divide the vocabulary, the
last ones end with rows of zeros that stand for no token. config.json keeps the model's own vocab_size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.files import read_json
from common.formats import model_config
from common.formats.dtypes import TensorSpec
from common.formats.model_config import FAMILIES
from common.program import BadInput

LAYOUTS = ("trn1", "trn2")

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


class Projection(NamedTuple):
    """A linear layer as NxD stores it: its module in a decoder layer, its parameter, the axis it is cut on."""

    module: str
    parameter: str
    axis: int

    def tensor(self, kind: str) -> str:
        """The name in a layer of its tensor; `kind` is "weight" or "bias"."""
        return f"{self.module}.{self.parameter.replace('weight', kind)}"


PROJECTIONS = {
    "self_attn.q_proj": Projection("self_attn.qkv_proj", "weight_q", 0),
    "self_attn.k_proj": Projection("self_attn.qkv_proj", "weight_k", 0),
    "self_attn.v_proj": Projection("self_attn.qkv_proj", "weight_v", 0),
    "self_attn.o_proj": Projection("self_attn.o_proj", "weight", 1),
    "mlp.gate_proj": Projection("mlp.gate_up_proj", "weight", 0),
    "mlp.up_proj": Projection("mlp.gate_up_proj", "weight", 0),
    "mlp.down_proj": Projection("mlp.down_proj", "weight", 1),
}

TARGETS = tuple(name.partition(".")[2] for name in PROJECTIONS)  # what --targets and PEFT's target_modules name


@dataclass(frozen=True)
class ModelShape:
    """The family and the sizes in a Hugging Face config.json, which decide the tensors of a model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    model_type: str = "llama"

    @property
    def biases(self) -> list[str]:
        """The keys of PROJECTIONS with a bias."""
        return FAMILIES[self.model_type].get("biases", [])

    @property
    def head_norms(self) -> list[str]:
        """The modules of a layer that normalize each query head, and each key head."""
        return FAMILIES[self.model_type].get("head_norms", [])

    def projection(self, name: str) -> tuple[int, int]:
        """(out_features, in_features) of a key of PROJECTIONS."""
        query, key_value = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return {
            "self_attn.q_proj": (query, self.hidden_size),
            "self_attn.k_proj": (key_value, self.hidden_size),
            "self_attn.v_proj": (key_value, self.hidden_size),
            "self_attn.o_proj": (self.hidden_size, query),
            "mlp.gate_proj": (self.intermediate_size, self.hidden_size),
            "mlp.up_proj": (self.intermediate_size, self.hidden_size),
            "mlp.down_proj": (self.hidden_size, self.intermediate_size),
        }[name]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of every Hugging Face tensor by name, the output layer included even where it is tied."""
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            shapes |= {f"{prefix}{name}.weight": self.projection(name) for name in PROJECTIONS}
            shapes |= {f"{prefix}{name}.bias": self.projection(name)[:1] for name in self.biases}
            shapes |= {f"{prefix}{name}.weight": (self.head_dim,) for name in self.head_norms}
            shapes[f"{prefix}input_layernorm.weight"] = (self.hidden_size,)
            shapes[f"{prefix}post_attention_layernorm.weight"] = (self.hidden_size,)
        return shapes | {"model.norm.weight": (self.hidden_size,), LM_HEAD: (self.vocab_size, self.hidden_size)}


@dataclass(frozen=True)
class ShardLayout:
    """How a model is cut; the content of layout.json beside the shards."""

    tp_size: int
    kv_size_multiplier: int
    layout: str


class Segment(NamedTuple):
    """`length` rows (or columns) from `start` of the whole tensor lie in `rank`'s shard from `shard_start`."""

    rank: int
    shard_start: int
    start: int
    length: int


class Placement(NamedTuple):
    """Where one Hugging Face tensor lies: a shard key, the axis it is cut on, and all pieces, copies included."""

    key: str
    axis: int
    segments: tuple[Segment, ...]

    def first_copies(self) -> tuple[Segment, ...]:
        """The pieces that make the tensor once, in its order."""
        firsts = {segment.start: segment for segment in reversed(self.segments)}
        return tuple(firsts[start] for start in sorted(firsts))

    def further_copies(self) -> list[tuple[Segment, Segment]]:
        """(copy, first copy) of every piece that lies on more than one rank."""
        firsts = {segment.start: segment for segment in self.first_copies()}
        pairs = [(segment, firsts[segment.start]) for segment in self.segments]
        return [(segment, first) for segment, first in pairs if segment != first]


def shard_name(rank: int) -> str:
    """The file of a rank, as NxD names it without data or pipeline parallelism."""
    return f"dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt"


def query_heads(shape: ModelShape, layout: ShardLayout) -> np.ndarray:
    """The query heads of each rank, (tp_size, num_attention_heads / tp_size), in the order they are stored."""
    heads = np.arange(shape.num_attention_heads)
    if layout.layout == "trn1":
        heads = heads.reshape(shape.num_key_value_heads, layout.kv_size_multiplier, -1).swapaxes(0, 1)
    return heads.reshape(layout.tp_size, -1)


def key_value_heads(shape: ModelShape, layout: ShardLayout) -> np.ndarray:
    """The K/V heads of each rank, (tp_size, num_key_value_heads * kv_size_multiplier / tp_size)."""
    heads = np.arange(shape.num_key_value_heads)
    copies = np.tile if layout.layout == "trn1" else np.repeat
    return copies(heads, layout.kv_size_multiplier).reshape(layout.tp_size, -1)


def projection_segments(shape: ModelShape, layout: ShardLayout, name: str) -> tuple[Segment, ...]:
    """The pieces of a key of PROJECTIONS along the axis it is cut on."""
    if name in ("self_attn.q_proj", "self_attn.o_proj"):
        return _segments(query_heads(shape, layout), shape.head_dim)
    if name in ("self_attn.k_proj", "self_attn.v_proj"):
        return _segments(key_value_heads(shape, layout), shape.head_dim)
    width = shape.intermediate_size // layout.tp_size
    return _segments(_one_each(layout), width, shard_start=width if name == "mlp.up_proj" else 0)


def placements(shape: ModelShape, layout: ShardLayout) -> dict[str, Placement]:
    """Where every Hugging Face tensor lies in the shards, by name; gate_proj comes before up_proj."""
    vocabulary = tuple(_vocabulary(shape, layout))
    cuts = {name: projection_segments(shape, layout, name) for name in PROJECTIONS}
    found = {}
    for name, size in shape.tensors().items():
        path, _, kind = name.rpartition(".")
        layer, _, module = path.removeprefix("model.layers.").partition(".")
        if module in PROJECTIONS:
            target = PROJECTIONS[module]
            key = f"model.layers.{layer}.{target.tensor(kind)}"
            found[name] = Placement(key, target.axis, cuts[module])
        else:
            found[name] = Placement(name, 0, vocabulary if name in (EMBEDDING, LM_HEAD) else _whole(layout, size[0]))
    return found


def vocabulary_rows(shape: ModelShape, tp_size: int) -> int:
    """The rows of the embedding, and of the output layer, on each of `tp_size` ranks, padding included."""
    return -(-shape.vocab_size // tp_size)


def shard_shapes(shape: ModelShape, layout: ShardLayout) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a rank file by key; all ranks are alike."""
    return cut_shapes(placements(shape, layout), shape.tensors())


def cut_shapes(places: Mapping[str, Placement], whole: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes on one rank, by shard key, of tensors of the shapes `whole`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, place in places.items():
        sizes = list(whole[name])
        sizes[place.axis] = max(part.shard_start + part.length for part in place.segments if part.rank == 0)
        shapes[place.key] = tuple(sizes)  # up_proj comes after gate_proj, and its end is the end of both
    return shapes


def fewest_copies(shape: ModelShape, tp_size: int) -> int:
    """The kv_size_multiplier that gives every one of `tp_size` ranks a K/V head."""
    return max(1, tp_size // shape.num_key_value_heads)


def check_divisible(shape: ModelShape, layout: ShardLayout) -> None:
    """BadInput unless every rank gets the same whole heads and width of the MLP.

    With copies (kv_size_multiplier > 1) a rank holds exactly one K/V head. Several would still convert,
    but NxD sums the gradients of whole rank shards over the ranks of one head, and so would mix heads.
    """
    tp_size, copies, heads = layout.tp_size, layout.kv_size_multiplier, shape.num_key_value_heads
    for key in ("num_attention_heads", "intermediate_size"):
        size = getattr(shape, key)
        if size % tp_size:
            raise BadInput(f"--tp-size {tp_size} does not divide {key} {size} of the model's config.json")
    if heads * copies == tp_size or (copies == 1 and heads % tp_size == 0):
        return
    if heads % tp_size and tp_size % heads:
        raise BadInput(
            f"--tp-size {tp_size} does not fit num_key_value_heads {heads} of the model's config.json: "
            "try a divisor or a multiple of it"
        )
    raise BadInput(
        f"--kv-size-multiplier {copies} does not fit --tp-size {tp_size} and num_key_value_heads {heads}: "
        f"try {fewest_copies(shape, tp_size)}"
    )


def check_tensors(where: Path, found: Mapping[str, TensorSpec], expected: Mapping[str, tuple[int, ...]]) -> None:
    """BadInput naming the file or folder `where` and the first tensor that is missing, unexpected or misshapen."""
    for name in sorted(expected.keys() - found.keys()):
        raise BadInput(f"{where}: tensor {name} is missing, which the model's config.json asks for")
    for name in sorted(found.keys() - expected.keys()):
        raise BadInput(f"{where}: tensor {name} is unexpected: the model's config.json has no place for it")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise BadInput(f"{where}: tensor {name} has shape {list(found[name].shape)}, expected {list(shape)}")


def read_shape(folder: Path) -> ModelShape:
    """The ModelShape of `folder`/config.json; BadInput for an unusable file or a model that is not supported."""
    path = folder / "config.json"
    config = model_config.read(folder, "torch")
    heads = _size(path, config, "num_attention_heads")
    shape = ModelShape(
        vocab_size=_size(path, config, "vocab_size"),
        hidden_size=_size(path, config, "hidden_size"),
        intermediate_size=_size(path, config, "intermediate_size"),
        num_hidden_layers=_size(path, config, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_size(path, config, "num_key_value_heads", absent=heads),
        head_dim=_size(path, config, "head_dim", absent=_size(path, config, "hidden_size") // heads),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        model_type=config["model_type"],
    )
    if shape.head_dim % 2:
        raise BadInput(f"{path}: head_dim {shape.head_dim} is odd, and rotary positions turn pairs")
    if heads % shape.num_key_value_heads:
        groups = shape.num_key_value_heads
        raise BadInput(f"{path}: num_key_value_heads {groups} does not divide num_attention_heads {heads}")
    return shape


def read_layout(folder: Path) -> ShardLayout:
    """The ShardLayout in `folder`/layout.json."""
    path = folder / "layout.json"
    content = read_json(path)
    layout = content.get("layout")
    if layout not in LAYOUTS:
        raise BadInput(f"{path}: layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    return ShardLayout(_size(path, content, "tp_size"), _size(path, content, "kv_size_multiplier"), layout)


def write_layout(folder: Path, layout: ShardLayout) -> None:
    """Write `folder`/layout.json."""
    (folder / "layout.json").write_text(json.dumps(asdict(layout), indent=2) + "\n", encoding="utf-8")


def _size(path: Path, content: Mapping[str, Any], key: str, absent: int | None = None) -> int:
    value = content.get(key)
    if value is None:
        value = absent
    if type(value) is not int or value < 1:
        raise BadInput(f"{path}: {key} must be a whole number from 1, it is {value!r}")
    return value


def _whole(layout: ShardLayout, length: int) -> tuple[Segment, ...]:
    """The segments of a tensor that every rank has whole."""
    return _segments(np.zeros((layout.tp_size, 1), int), length)


def _vocabulary(shape: ModelShape, layout: ShardLayout) -> Iterator[Segment]:
    """The tokens of each rank that has any."""
    for segment in _segments(_one_each(layout), vocabulary_rows(shape, layout.tp_size)):
        tokens = min(segment.length, shape.vocab_size - segment.start)
        if tokens > 0:
            yield segment._replace(length=tokens)


def _one_each(layout: ShardLayout) -> np.ndarray:
    return np.arange(layout.tp_size).reshape(-1, 1)


def _segments(units: np.ndarray, length: int, shard_start: int = 0) -> tuple[Segment, ...]:
    """Segments for `units` (tp_size, units a rank) of `length` rows each; neighbours are joined."""
    found: list[Segment] = []
    for rank, row in enumerate(units.tolist()):
        for slot, unit in enumerate(row):
            segment = Segment(rank, shard_start + slot * length, unit * length, length)
            found.append(segment)
            if slot and unit == row[slot - 1] + 1:
                last, previous = found.pop(), found.pop()
                found.append(previous._replace(length=previous.length + last.length))
    return tuple(found)
