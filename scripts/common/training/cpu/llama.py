"""The model for LoRA training on CPU ranks: frozen tensor-parallel weights in NxD's shards, and an adapter.

    shape, layout = read_shape(shards), read_layout(shards)
    adapter = Adapter(shape, layout, ranks.rank, lora_config, seed=0)
    model = Llama(shards, torch.float32, adapter, ranks)
    model.loss(batch, dropout).backward()      # accumulates into adapter.gradient

A forward pass computes the sum of losses over the labelled tokens of a flat micro-batch (common.data.token_dataset).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from common.data.token_dataset import Batch
from common.formats import model_config
from common.shards import layout as layouts
from common.shards.layout import EMBEDDING, LM_HEAD
from common.training.cpu.autograd_ops import Attention, Checkpointed, CrossEntropy, LoraLinear, RmsNorm, SwiGlu
from common.training.llama import (
    Heads,
    LayerWeights,
    inverse_frequencies,
    layer_weights,
    normalized_heads,
    padding_bias,
    read_shard,
)
from common.training.lora import MODULES, Adapter, ModuleLora
from common.training.parallel import Ranks

Rotary = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, (tokens, 1, head_dim / 2)
_LEVELS = 1 << 16  # a dropout mask uses 16 random bits per element


@dataclass(frozen=True)
class Dropout:
    """Dropout masks that only depend on `seed` and a key in the model, so that a repeated step draws the same."""

    rate: float = 0.0
    seed: tuple[int, ...] = ()

    @property
    def kept(self) -> float:
        """The expected fraction of elements that a mask keeps."""
        return 1 - round(self.rate * _LEVELS) / _LEVELS

    def keep(self, size: torch.Size, key: tuple[int, ...]) -> torch.Tensor | None:
        """A boolean mask of `size`, True where the input is kept; None if nothing is dropped."""
        if self.kept == 1:
            return None
        bits = np.random.default_rng((*self.seed, *key)).integers(0, _LEVELS, tuple(size), dtype=np.uint16)
        return torch.from_numpy(bits >= round(self.rate * _LEVELS))


@dataclass(frozen=True)
class Linear:
    """A frozen linear layer with or without LoRA; `dropout_key` is unique to the layer."""

    weight: torch.Tensor  # (out features, in features) of this rank
    bias: torch.Tensor | None  # (out features,) of this rank
    lora: ModuleLora | None
    scale: float
    dropout_key: tuple[int, ...]

    def __call__(self, x: torch.Tensor, dropout: Dropout) -> torch.Tensor:
        if self.lora is None:
            return functional.linear(x, self.weight, self.bias)
        keep, scale = dropout.keep(x.shape, self.dropout_key), self.scale / dropout.kept
        result = LoraLinear.apply(x, self.weight, self.lora.lora_a, self.lora.lora_b(), scale, keep)
        return result if self.bias is None else result.add_(self.bias)


@dataclass(frozen=True)
class Layer:
    """One decoder layer of a rank."""

    input_norm: torch.Tensor
    qkv: Linear
    head_norms: torch.Tensor | None
    o: Linear
    post_attention_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """The model of one rank. `checkpointing` recomputes activations in the backward pass to save memory."""

    def __init__(self, shards: Path, dtype: torch.dtype, adapter: Adapter, ranks: Ranks, checkpointing: bool) -> None:
        shape, layout = layouts.read_shape(shards), layouts.read_layout(shards)
        config = model_config.read(shards, trainer="torch")
        self._ranks, self._adapter, self._checkpointing = ranks, adapter, checkpointing
        self._eps = float(config.get("rms_norm_eps", 1e-6))
        self._frequencies = inverse_frequencies(config, shape.head_dim)
        self._multipliers = model_config.multipliers(config)
        self._heads = Heads.on_rank(shape, layout, self._multipliers.attention_multiplier)
        weights = read_shard(shards / "model" / layouts.shard_name(ranks.rank), shape, layout, dtype)
        self._embedding, self.head = weights[EMBEDDING], weights[LM_HEAD]
        self._first_token = ranks.rank * len(self.head)
        self._head_bias = padding_bias(shape, layout, ranks.rank, "cpu", dtype)
        self._norm = weights["model.norm.weight"] / self._multipliers.logits_scaling
        layers = (layer_weights(weights, index, shape, self._heads) for index in range(shape.num_hidden_layers))
        self._layers = [self._layer(layer, index) for index, layer in enumerate(layers)]

    def loss(self, batch: Batch, dropout: Dropout = Dropout()) -> torch.Tensor:
        """The sum of the cross-entropy losses of the batch's labelled tokens, the same on every rank."""
        hidden = self.hidden_states(batch, batch.rows, dropout)
        head = self.head, self._head_bias
        return CrossEntropy.apply(hidden, *head, batch.targets, self._first_token, self._ranks)

    def hidden_states(self, batch: Batch, rows: torch.Tensor, dropout: Dropout = Dropout()) -> torch.Tensor:
        """The head's input at `rows` of the batch: (rows, hidden_size), the same on every rank.

        Multiplied by `head`, it gives the logits of the rank's part of the vocabulary, scaled as the model does, and 0
        where that is padded.
        """
        angles = batch.positions.unsqueeze(-1) * self._frequencies
        rotary = angles.cos().to(self.head.dtype).unsqueeze(1), angles.sin().to(self.head.dtype).unsqueeze(1)
        hidden = self._embed(batch.input_ids)
        for layer in self._layers:
            block = partial(self._decode, layer, batch, rotary, dropout)
            if self._checkpointing and torch.is_grad_enabled():
                hidden = Checkpointed.apply(block, hidden, self._adapter.anchor)
            else:
                hidden = block(hidden)
        return self._rms_norm(hidden.index_select(0, rows), self._norm)

    def _decode(self, layer: Layer, batch: Batch, rotary: Rotary, dropout: Dropout, hidden: torch.Tensor):
        ranks, factor = self._ranks, self._multipliers.residual_multiplier
        qkv = layer.qkv(ranks.scatter(self._rms_norm(hidden, layer.input_norm)), dropout)
        if layer.head_norms is not None:
            qkv = normalized_heads(qkv, layer.head_norms, self._rms_norm)
        attended = Attention.apply(qkv, *rotary, batch.groups, self._heads)
        hidden = torch.add(hidden, ranks.gather(layer.o(attended, dropout)), alpha=factor)
        normed = ranks.scatter(self._rms_norm(hidden, layer.post_attention_norm))
        activated = SwiGlu.apply(layer.gate_up(normed, dropout))
        return torch.add(hidden, ranks.gather(layer.down(activated, dropout)), alpha=factor)

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return RmsNorm.apply(x, weight, self._eps)

    def _embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (tokens, hidden_size); each rank contributes the tokens in its part of the vocabulary."""
        local = input_ids - self._first_token
        mine = (local >= 0) & (local < len(self._embedding))
        rows = functional.embedding(local.clamp(0, len(self._embedding) - 1), self._embedding)
        return self._ranks.sum(rows.mul_(mine.unsqueeze(-1) * self._multipliers.embedding_multiplier))

    def _layer(self, weights: LayerWeights, index: int) -> Layer:
        qkv, o, gate_up, down = (self._linear(weights, index, order) for order in range(len(MODULES)))
        return Layer(weights.input_norm, qkv, weights.head_norms, o, weights.post_attention_norm, gate_up, down)

    def _linear(self, weights: LayerWeights, index: int, order: int) -> Linear:
        """The ranks draw the same dropout mask for an input they share, and different ones for a sharded input."""
        sharded_input = MODULES[order] in ("self_attn.o_proj", "mlp.down_proj")
        key = (index, order, self._ranks.rank if sharded_input else 0)
        lora, weight, bias = self._adapter.module(index, MODULES[order]), weights.linears[order], weights.biases[order]
        return Linear(weight, bias, lora, self._adapter.config.scale, key)
