"""Parts of a Llama that the CPU and Neuron implementations share. Needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.formats import model_config
from common.formats.torch_file import TorchZipFile
from common.shards import layout as layouts
from common.shards.layout import ModelShape, ShardLayout
from common.training.lora import MODULES

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Heads:
    """The heads of one rank: `kv` key/value heads with `per_kv` query heads each, all of `size` elements."""

    kv: int
    per_kv: int
    size: int

    @classmethod
    def on_rank(cls, shape: ModelShape, layout: ShardLayout) -> Heads:
        """The heads of each rank; all ranks have the same number."""
        kv = shape.num_key_value_heads * layout.kv_size_multiplier // layout.tp_size
        return cls(kv, shape.num_attention_heads // layout.tp_size // kv, shape.head_dim)

    @property
    def query(self) -> int:
        """The number of query heads."""
        return self.kv * self.per_kv


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


def layer_weights(
    weights: dict[str, torch.Tensor], index: int
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """A layer's input norm, post-attention norm and linear weights in the order of MODULES, q, k and v fused."""
    prefix = f"model.layers.{index}."
    qkv = torch.cat([weights[f"{prefix}self_attn.qkv_proj.weight_{part}"] for part in "qkv"])
    linears = [qkv, *(weights[f"{prefix}{module}.weight"] for module in MODULES[1:])]
    return weights[f"{prefix}input_layernorm.weight"], weights[f"{prefix}post_attention_layernorm.weight"], linears
