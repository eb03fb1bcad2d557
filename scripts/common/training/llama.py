"""Parts of the model that the CPU and Neuron implementations share. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.formats import model_config
from common.formats.torch_file import TorchZipFile
from common.shards import layout as layouts
from common.shards.layout import PROJECTIONS, ModelShape, ShardLayout
from common.training.lora import MODULES, projections
from common.training.masks import MASKED_SCORE

Weights = dict[str, torch.Tensor]


class LayerWeights(NamedTuple):
    """The frozen tensors of one decoder layer on a rank; `linears` and `biases` are in the order of MODULES."""

    input_norm: torch.Tensor
    post_attention_norm: torch.Tensor
    linears: tuple[torch.Tensor, ...]
    biases: tuple[torch.Tensor | None, ...]
    head_norms: torch.Tensor | None  # of the rank's query and key heads: (query + kv, size)


@dataclass(frozen=True)
class Heads:
    """The heads of one rank: `kv` key/value heads with `per_kv` query heads each, all of `size` elements.

    `multiplier` is the factor of attention scores, if it is not 1 / sqrt(size).
    """

    kv: int
    per_kv: int
    size: int
    multiplier: float | None = None

    @classmethod
    def on_rank(cls, shape: ModelShape, layout: ShardLayout, multiplier: float | None = None) -> Heads:
        """The heads of each rank; all ranks have the same number."""
        kv = shape.num_key_value_heads * layout.kv_size_multiplier // layout.tp_size
        return cls(kv, shape.num_attention_heads // layout.tp_size // kv, shape.head_dim, multiplier)

    @property
    def query(self) -> int:
        """The number of query heads."""
        return self.kv * self.per_kv

    @property
    def scale(self) -> float:
        """The factor of attention scores."""
        return self.size**-0.5 if self.multiplier is None else self.multiplier


def inverse_frequencies(config: dict[str, Any], head_dim: int) -> torch.Tensor:
    """Rotary frequencies (head_dim / 2,) for a config returned by `model_config.read`.

    theta^(-2i/head_dim) (Su et al. 2021); "llama3" scaling as in Meta's reference implementation of Llama 3.1.
    """
    rope = model_config.rope(config)
    frequencies = float(rope["rope_theta"]) ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope["rope_type"] == "default":
        return frequencies
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    unscaled = ((turns - low) / (high - low)).clamp(0, 1)  # 1 for waves much shorter than the original context
    return frequencies * (unscaled + (1 - unscaled) / rope["factor"])


def check_shard(path: Path, shape: ModelShape, layout: ShardLayout) -> Path:
    """Returns `path`. Raises BadInput unless the file has exactly the tensors that `shape` and `layout` require."""
    layouts.check_tensors(path, TorchZipFile(path).specs, layouts.shard_shapes(shape, layout))
    return path


def read_shard(path: Path, shape: ModelShape, layout: ShardLayout, dtype: torch.dtype) -> Weights:
    """The tensors in a rank's file by name, checked by `check_shard` and cast to `dtype`."""
    tensors = torch.load(check_shard(path, shape, layout), map_location="cpu", mmap=True, weights_only=True)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def padding_bias(
    shape: ModelShape, layout: ShardLayout, rank: int, device: Any, dtype: torch.dtype = torch.float32
) -> torch.Tensor | None:
    """A bias (rows,) of the rank's output layer that leaves the padding of the vocabulary out of the softmax.

    None if the vocabulary needs no padding; whether it does is the same on every rank.
    """
    rows = layouts.vocabulary_rows(shape, layout.tp_size)
    if rows * layout.tp_size == shape.vocab_size:
        return None
    padded = rank * rows + torch.arange(rows) >= shape.vocab_size
    return torch.where(padded, MASKED_SCORE, 0.0).to(device, dtype)


def layer_weights(weights: Weights, index: int, shape: ModelShape, heads: Heads) -> LayerWeights:
    """The tensors of one layer in a rank's shard; q, k and v are fused."""
    prefix = f"model.layers.{index}."
    fused = [_fused(weights, prefix, module) for module in MODULES]
    counts = (heads.query, heads.kv)
    norms = [
        weights[f"{prefix}{name}.weight"].expand(count, -1)
        for name, count in zip(shape.head_norms, counts, strict=False)
    ]
    return LayerWeights(
        weights[f"{prefix}input_layernorm.weight"],
        weights[f"{prefix}post_attention_layernorm.weight"],
        tuple(weight for weight, _ in fused),
        tuple(bias for _, bias in fused),
        torch.cat(norms) if norms else None,
    )


def _fused(weights: Weights, prefix: str, module: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of one of MODULES. The bias is None if no projection has one, and 0 for projections without."""
    targets = [PROJECTIONS[name] for name in projections(module)]
    names = dict.fromkeys((target.tensor("weight"), target.tensor("bias")) for target in targets)  # gate and up share
    parts = [(weights[f"{prefix}{weight}"], weights.get(f"{prefix}{bias}")) for weight, bias in names]
    matrix = parts[0][0] if len(parts) == 1 else torch.cat([weight for weight, _ in parts])
    if all(bias is None for _, bias in parts):
        return matrix, None
    return matrix, torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts])


def normalized_heads(
    qkv: torch.Tensor, weight: torch.Tensor, rms_norm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Normalize each query and key head of (..., [query, key, value heads]); `weight` is `LayerWeights.head_norms`."""
    heads = qkv.unflatten(-1, (-1, weight.shape[-1]))
    normed, values = heads[..., : len(weight), :], heads[..., len(weight) :, :]
    return torch.cat([rms_norm(normed, weight), values], dim=-2).flatten(-2)
