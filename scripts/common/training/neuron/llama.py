"""The model for LoRA training on a device that compiles its programs: native PyTorch on Neuron. Needs torch.

It has the frozen weights, adapter and results of common.training.cpu.llama, but is written for a compiler: every
program (prepare, a decoder layer, the loss) is a function of tensors with constant shapes that reads no value from
the device, so it is compiled once, and all layers share one program. Values that differ between ranks are tensors
instead of constants, so that ranks share the programs too. The only collective is a sum.

    model = NeuronLlama(shards, torch.bfloat16, adapter, ranks, checkpointing=True, device=NEURON)
    model.loss(flat_weights, padded_batch, factor, dropout).backward()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.autograd import Function
from torch.distributed import _functional_collectives as collectives
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from common.data.padded_batch import Tensors
from common.formats import model_config
from common.shards import layout as layouts
from common.shards.layout import EMBEDDING, LM_HEAD
from common.training.llama import (
    Heads,
    LayerWeights,
    inverse_frequencies,
    layer_weights,
    normalized_heads,
    padding_bias,
    read_shard,
)
from common.training.lora import MODULES, Adapter, ModuleLora, Views
from common.training.masks import MASKED_SCORE, dropout_seed, masked_positions
from common.training.parallel import Ranks

_QKV, _O, _GATE_UP, _DOWN = range(4)


@dataclass(frozen=True)
class Device:
    """Names that torch uses for a device, its backend of collectives, and its compiler."""

    name: str
    collectives: str
    compiler: str | Callable[..., Any]

    def compile(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Compile `program` as one graph with static shapes; fails if that is not possible."""
        return torch.compile(program, backend=self.compiler, fullgraph=True, dynamic=False)


NEURON = Device("neuron", collectives="neuron", compiler="neuron")


@dataclass(frozen=True)
class Dropout:
    """Dropout masks drawn on the device, with seeds that only depend on `key` and the layer, so steps are repeatable.

    All ranks draw the same masks, as they must for inputs that they share.
    """

    rate: float = 0.0
    key: tuple[int, ...] = ()

    def masks(self, layer: int, sizes: list[tuple[int, ...] | None], device: str) -> list[torch.Tensor | None]:
        """A mask for each size, 1 / (1 - rate) where the input is kept; None for a size of None, or without dropout."""
        if not self.rate:
            return [None] * len(sizes)
        torch.manual_seed(dropout_seed((*self.key, layer)))
        keep = 1 - self.rate
        return [None if size is None else (torch.rand(size, device=device) < keep) / keep for size in sizes]


NO_DROPOUT = Dropout()


class Context(NamedTuple):
    """Inputs of all layers: cosines and sines (rows, seq_len, 1, head size / 2), and the positions that a token may not
    attend to, bool (rows, 1, 1, seq_len, seq_len)."""

    cos: torch.Tensor
    sin: torch.Tensor
    masked: torch.Tensor


class NeuronLlama:
    """The model of one rank on `device`. `checkpointing` recomputes activations in the backward pass."""

    def __init__(
        self, shards: Path, dtype: torch.dtype, adapter: Adapter, ranks: Ranks, checkpointing: bool, device: Device
    ) -> None:
        shape, layout = layouts.read_shape(shards), layouts.read_layout(shards)
        config = model_config.read(shards, trainer="torch")
        multipliers = model_config.multipliers(config)
        heads = Heads.on_rank(shape, layout, multipliers.attention_multiplier)
        self._device, self._dtype, self._adapter, self._checkpointing = device, dtype, adapter, checkpointing
        self._frequencies = inverse_frequencies(config, shape.head_dim)
        weights = read_shard(shards / "model" / layouts.shard_name(ranks.rank), shape, layout, dtype)
        weights = {name: weight.to(device.name) for name, weight in weights.items()}
        self._embedding, self._head = weights[EMBEDDING], weights[LM_HEAD]
        self._head_bias = padding_bias(shape, layout, ranks.rank, device.name)
        self._norm = weights["model.norm.weight"] / multipliers.logits_scaling
        self._layers = [layer_weights(weights, index, shape, heads) for index in range(shape.num_hidden_layers)]
        self._first = torch.tensor(ranks.rank * len(self._head), dtype=torch.int32).to(device.name)
        self._own = functional.one_hot(torch.tensor(ranks.rank), ranks.size).float().to(device.name)
        self._scale = torch.tensor([adapter.config.scale]).to(device.name)
        eps, alone = float(config.get("rms_norm_eps", 1e-6)), ranks.size == 1
        factor = multipliers.residual_multiplier
        self._prepare = device.compile(partial(prepare, multiplier=multipliers.embedding_multiplier, alone=alone))
        self._decode = device.compile(partial(decode, heads=heads, eps=eps, factor=factor, alone=alone))
        self._loss = device.compile(partial(summed_loss, eps=eps, alone=alone))

    def loss(self, flat: torch.Tensor, tensors: Tensors, dropout: Dropout = NO_DROPOUT) -> torch.Tensor:
        """The weighted sum of the losses of a micro-batch's labels, the same on every rank.

        `flat` contains the adapter's parameters (like `Adapter.weights`) and receives their gradients.
        """
        input_ids, segments, targets = map(self._to_device, (tensors[0], tensors[2], tensors[3]))
        with torch.no_grad():
            hidden, masked = self._prepare(input_ids, segments, self._embedding, self._first)
        cos, sin = self._rotary(tensors.positions)
        context = Context(cos, sin, masked)
        hidden.requires_grad_(torch.is_grad_enabled())  # otherwise the first layer would need a program of its own
        views = self._adapter.views(flat)
        for index in range(len(self._layers)):
            block = partial(self._block, index, self._loras(views, index), dropout, context)
            if self._checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = block(hidden)
        weights = self._to_device(tensors.weights)
        head = self._head, self._head_bias
        return self._loss(hidden, targets, weights, self._norm, *head, self._first, self._own)

    def _block(self, index: int, loras: list, dropout: Dropout, context: Context, hidden: torch.Tensor) -> torch.Tensor:
        rows, layer = hidden.shape[:2], self._layers[index]
        sizes = [lora and (*rows, weight.shape[1]) for lora, weight in zip(loras, layer.linears, strict=True)]
        masks = dropout.masks(index, sizes, self._device.name)
        return self._decode(hidden, context, layer, loras, masks, self._scale)

    def _loras(self, views: Views, index: int) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """lora_A and lora_B of each of MODULES; this rank's rows are selected outside of the compiled program."""
        modules: list[ModuleLora | None] = [self._adapter.module(index, module, views) for module in MODULES]
        return [lora and (lora.lora_a, lora.lora_b()) for lora in modules]

    def _rotary(self, positions: np.ndarray) -> list[torch.Tensor]:
        angles = torch.from_numpy(positions).unsqueeze(-1) * self._frequencies
        return [part.to(self._dtype).unsqueeze(2).to(self._device.name) for part in (angles.cos(), angles.sin())]

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        """The array on the device, with int64 cast to int32: the device has no 64-bit arithmetic."""
        small = array.astype(np.int32) if array.dtype == np.int64 else array
        return torch.from_numpy(small).to(self._device.name)


def prepare(
    input_ids: torch.Tensor, segments: torch.Tensor, table: torch.Tensor, first: torch.Tensor,
    multiplier: float, alone: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Embeddings (rows, seq_len, hidden_size) from a vocabulary split over the ranks, and Context.masked."""
    local = input_ids - first
    mine = (local >= 0) & (local < len(table))
    rows = _times(functional.embedding(local.clamp(0, len(table) - 1), table) * mine.unsqueeze(-1), multiplier)
    return (rows if alone else summed(rows)), masked_positions(segments)[:, None, None]


def decode(
    hidden: torch.Tensor, context: Context, layer: LayerWeights, loras: list, masks: list, scale: torch.Tensor,
    heads: Heads, eps: float, factor: float, alone: bool,
) -> torch.Tensor:  # fmt: skip
    """One decoder layer: hidden states (rows, seq_len, hidden_size) to the next ones.

    `scale`, float32 (1,), is that of LoRA's updates, `factor` that of what attention and MLP add to the hidden states.
    """
    enter, leave = (_identity, _identity) if alone else (SumBackward.apply, SumForward.apply)

    def linear(x: torch.Tensor, module: int) -> torch.Tensor:
        frozen = functional.linear(x, layer.linears[module], layer.biases[module])
        lora = loras[module]
        if lora is None:
            return frozen
        return frozen + (_update(x, lora[0], lora[1], masks[module]) * scale).to(frozen.dtype)

    normed = enter(_rms_norm(hidden, layer.input_norm, eps))
    qkv = linear(normed, _QKV)
    if layer.head_norms is not None:
        qkv = normalized_heads(qkv, layer.head_norms, partial(_rms_norm, eps=eps))
    hidden = hidden + _times(leave(linear(attention(qkv, context, heads), _O)), factor)
    normed = enter(_rms_norm(hidden, layer.post_attention_norm, eps))
    gate, up = linear(normed, _GATE_UP).chunk(2, dim=-1)
    return hidden + _times(leave(linear(functional.silu(gate) * up, _DOWN)), factor)


def attention(qkv: torch.Tensor, context: Context, heads: Heads) -> torch.Tensor:
    """Grouped-query attention with rotary positions over (rows, seq_len, [query, key, value heads])."""
    rows, length, _ = qkv.shape
    query, key, value = qkv.view(rows, length, -1, heads.size).split([heads.query, heads.kv, heads.kv], dim=2)
    query = _rotate(query, context).view(rows, length, heads.kv, heads.per_kv, heads.size).permute(0, 2, 3, 1, 4)
    key, value = (part.transpose(1, 2).unsqueeze(2) for part in (_rotate(key, context), value))
    scores = (query * heads.scale) @ key.transpose(3, 4)
    scores = scores.float().masked_fill(context.masked, MASKED_SCORE)
    attended = torch.softmax(scores, dim=-1).to(qkv.dtype) @ value
    return attended.permute(0, 3, 1, 2, 4).reshape(rows, length, -1)


def summed_loss(
    hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
    norm: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None, first: torch.Tensor, own: torch.Tensor,
    eps: float, alone: bool,
) -> torch.Tensor:  # fmt: skip
    """The weighted sum of the cross-entropy over all positions; the vocabulary is split over the ranks.

    The log-sum-exp over the vocabulary is that over the ranks' own values. A sum collects them side by side, each
    rank's in the column of the one-hot vector `own`, so no maximum over the ranks is needed.
    """
    enter, leave = (_identity, _identity) if alone else (SumBackward.apply, SumForward.apply)
    logits = (enter(_rms_norm(hidden, norm, eps)) @ head.T).float()
    logits = logits if bias is None else logits + bias
    columns = torch.arange(logits.shape[-1], dtype=torch.int32, device=logits.device)
    chosen = columns == (targets - first).unsqueeze(-1)
    at_target = leave(torch.where(chosen, logits, 0.0).sum(dim=-1))
    sums = leave(torch.logsumexp(logits, dim=-1, keepdim=True) * own)
    return ((torch.logsumexp(sums, dim=-1) - at_target) * weights).sum()


class SumBackward(Function):
    """The input of a column-parallel layer: its gradient is summed over the ranks (Shoeybi et al. 2019)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return summed(gradient)


class SumForward(Function):
    """The output of a row-parallel layer: the sum over the ranks; its gradient is already the same on all of them."""

    @staticmethod
    def forward(ctx: Any, partial: torch.Tensor) -> torch.Tensor:
        return summed(partial)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.clone()


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over the ranks, as an operation that can be compiled."""
    return collectives.wait_tensor(collectives.all_reduce(tensor.contiguous(), "sum", dist.group.WORLD))  # pyright: ignore[reportArgumentType]


def _identity(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _times(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """The product; a factor of 1 adds nothing to the compiled program."""
    return tensor if factor == 1 else tensor * factor


def _update(x: torch.Tensor, lora_a: torch.Tensor, lora_b: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    kept = x if mask is None else x * mask.to(x.dtype)
    return functional.linear(functional.linear(kept, lora_a.to(x.dtype)), lora_b.to(x.dtype))


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight).to(x.dtype)


def _rotate(heads: torch.Tensor, context: Context) -> torch.Tensor:
    """Rotate (rows, seq_len, heads, size) by their position's angles; each head is [real half, imaginary half]."""
    real, imaginary = heads.chunk(2, dim=-1)
    cos, sin = context.cos, context.sin
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
