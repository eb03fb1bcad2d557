"""The operations of a decoder layer with a frozen base, each with its own backward pass.

Frozen weights need no gradient, so nothing is saved for them: a linear layer saves its input only for lora_A, a norm
saves its scale, and the loss saves only the gradient of its input.
"""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.nn import functional

from common.data.token_dataset import Group
from common.training.llama import Heads
from common.training.parallel import Ranks

_QUERY_BLOCK = 128  # queries per block: keys after a block are skipped, nearly half of the causal square
_LOSS_ROWS = 1024  # labelled rows per chunk of logits


class RmsNorm(Function):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019), computed in fp32."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale)
        ctx.weight = weight
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        x, scale = ctx.saved_tensors
        normed = x.float() * scale
        inner = gradient * ctx.weight
        shared = torch.linalg.vecdot(inner.float(), normed).unsqueeze(-1).div_(x.shape[-1])
        return torch.addcmul(inner, normed, shared, value=-1).mul_(scale).to(x.dtype), None, None


class SwiGlu(Function):
    """silu(gate) · up of (tokens, [gate, up]) (Shazeer 2020)."""

    @staticmethod
    def forward(ctx, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        to_gate, to_up = result.chunk(2, dim=-1)
        scratch = functional.silu(gate)
        torch.mul(gradient, scratch, out=to_up)
        torch.mul(gradient, up, out=scratch)
        torch.ops.aten.silu_backward(scratch, gate, grad_input=to_gate)
        return result


class LoraLinear(Function):
    """x Wᵀ + scale · (x ∘ keep) Aᵀ Bᵀ (Hu et al. 2021): W frozen, `keep` a dropout mask or None.

    x (tokens, in), weight (out, in), lora_a (rank, in), lora_b (out, rank). lora_a and lora_b are fp32
    and their gradients too, whatever x is.
    """

    @staticmethod
    def forward(ctx, x, weight, lora_a, lora_b, scale: float, keep: torch.Tensor | None) -> torch.Tensor:
        kept = x if keep is None else x * keep
        lora_a, lora_b = lora_a.to(x.dtype), lora_b.to(x.dtype)
        inner = (kept @ lora_a.T).mul_(scale)
        ctx.save_for_backward(kept, keep, inner, lora_a, lora_b)
        ctx.weight, ctx.scale = weight, scale
        return (x @ weight.T).addmm_(inner, lora_b.T)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        kept, keep, inner, lora_a, lora_b = ctx.saved_tensors
        to_inner = (gradient @ lora_b).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ ctx.weight
            to_x = to_x.addmm_(to_inner, lora_a) if keep is None else to_x.addcmul_(to_inner @ lora_a, keep)
        return to_x, None, (to_inner.T @ kept).float(), (gradient.T @ inner).float(), None, None


class Attention(Function):
    """Causal grouped-query attention with rotary positions over (tokens, [query, key, value heads]).

    cos and sin are (tokens, 1, head size / 2). The probabilities are saved for the backward pass: at the lengths of
    instruction data they are small, and with gradient checkpointing they exist for one layer at a time.
    """

    @staticmethod
    def forward(ctx, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, groups: list[Group], heads: Heads):
        rotated = _rotate(qkv, cos, sin, heads, 1)
        result = qkv.new_empty(len(qkv), heads.query * heads.size)
        ctx.kept, ctx.cos, ctx.sin, ctx.heads = [], cos, sin, heads
        for group in groups:
            query, key, value = (part.contiguous() for part in _split(group.pad(rotated), heads))
            query *= heads.scale
            blocks = [(span, _probabilities(query, key, span)) for span in _spans(group.length)]
            group.unpad(_weighted(value, blocks, heads), result)
            ctx.kept.append((group, query, key, value, blocks))
        return result

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        heads = ctx.heads
        result = gradient.new_empty(len(gradient), (heads.query + 2 * heads.kv) * heads.size)
        for group, query, key, value, blocks in ctx.kept:
            to_out = _heads_first(group.pad(gradient), heads.kv, heads.per_kv).contiguous()
            group.unpad(_attention_backward(to_out, query, key, value, blocks, heads), result)
        return _rotate(result, ctx.cos, ctx.sin, heads, -1), None, None, None, None


def _rotate(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: Heads, direction: int) -> torch.Tensor:
    """Rotate query and key heads by their position's angles, or back (direction -1); values are copied.

    The first half of a head is the real part and the second half the imaginary part, as in Hugging Face's Llama.
    """
    result, width = torch.empty_like(qkv), (heads.query + heads.kv) * heads.size
    result[:, width:] = qkv[:, width:]
    shape = (len(qkv), heads.query + heads.kv, heads.size)
    real, imaginary = qkv[:, :width].view(shape).chunk(2, dim=-1)
    to_real, to_imaginary = result[:, :width].view(shape).chunk(2, dim=-1)
    torch.mul(real, cos, out=to_real).addcmul_(imaginary, sin, value=-direction)
    torch.mul(imaginary, cos, out=to_imaginary).addcmul_(real, sin, value=direction)
    return result


def _heads_first(padded: torch.Tensor, kv: int, per_kv: int) -> torch.Tensor:
    """(count, length, kv · per_kv · size) as a view (count, kv, per_kv, length, size)."""
    count, length, _ = padded.shape
    return padded.view(count, length, kv, per_kv, -1).permute(0, 2, 3, 1, 4)


def _split(padded: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views of query (count, kv, per_kv, length, size), key and value (count, kv, 1, length, size)."""
    query, key, value = padded.split([n * heads.size for n in (heads.query, heads.kv, heads.kv)], dim=-1)
    return _heads_first(query, heads.kv, heads.per_kv), _heads_first(key, heads.kv, 1), _heads_first(value, heads.kv, 1)


def _spans(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + _QUERY_BLOCK, length)) for start in range(0, length, _QUERY_BLOCK)]


def _rows(heads_first: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Positions start:stop of (count, kv, per_kv, length, size), for a matmul: (count · kv, per_kv · rows, size)."""
    count, kv, _, _, size = heads_first.shape
    return heads_first[:, :, :, start:stop].reshape(count * kv, -1, size)


def _probabilities(query: torch.Tensor, key: torch.Tensor, span: tuple[int, int]) -> torch.Tensor:
    """Softmax of the scores of the queries in `span` over keys 0:stop: (count · kv, per_kv · queries, stop)."""
    start, stop = span
    scores = torch.bmm(_rows(query, start, stop), _rows(key, 0, stop).transpose(1, 2))
    future = scores.new_full((stop - start, stop - start), float("-inf")).triu_(1)
    scores.view(-1, stop - start, stop)[:, :, start:] += future
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)


def _weighted(value: torch.Tensor, blocks: list, heads: Heads) -> torch.Tensor:
    """The values weighted by each block's probabilities: (count, length, query heads · size)."""
    count, kv, _, length, size = value.shape
    result = value.new_empty(count, length, heads.query * size)
    target = _heads_first(result, kv, heads.per_kv)
    for (start, stop), probabilities in blocks:
        out = torch.bmm(probabilities, _rows(value, 0, stop))
        target[:, :, :, start:stop] = out.view(count, kv, heads.per_kv, stop - start, size)
    return result


def _attention_backward(to_out, query, key, value, blocks: list, heads: Heads) -> torch.Tensor:
    """The gradient of (count, length, [query, key, value heads]), from that of the output with heads first."""
    count, kv, _, length, size = key.shape
    result = key.new_empty(count, length, (heads.query + 2 * heads.kv) * size)
    to_query, to_key, to_value = _split(result, heads)
    key_sum, value_sum = (key.new_zeros(count * kv, length, size) for _ in range(2))
    for (start, stop), probabilities in blocks:
        out = _rows(to_out, start, stop)
        value_sum[:, :stop].baddbmm_(probabilities.transpose(1, 2), out)
        to_probabilities = torch.bmm(out, _rows(value, 0, stop).transpose(1, 2))
        to_scores = torch.ops.aten._softmax_backward_data(to_probabilities, probabilities, -1, probabilities.dtype)
        key_sum[:, :stop].baddbmm_(to_scores.transpose(1, 2), _rows(query, start, stop))
        from_keys = torch.bmm(to_scores, _rows(key, 0, stop)).mul_(heads.scale)
        to_query[:, :, :, start:stop] = from_keys.view(count, kv, heads.per_kv, stop - start, size)
    to_key.copy_(key_sum.view_as(to_key))
    to_value.copy_(value_sum.view_as(to_value))
    return result


class CrossEntropy(Function):
    """Sum of -log softmax(hidden headᵀ + bias)[target] over the rows, the vocabulary split over the ranks.

    hidden (rows, hidden_size) is the same on every rank; head (vocab / tp_size, hidden_size) and bias (vocab / tp_size)
    or None start at token `first`.
    The gradient is computed in the forward pass, so that logits only exist for a chunk of rows at a time.
    """

    @staticmethod
    def forward(
        ctx, hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, first: int,
        ranks: Ranks,
    ):  # fmt: skip
        ctx.gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        total = torch.zeros(())
        for start in range(0, len(hidden), _LOSS_ROWS):
            span = slice(start, start + _LOSS_ROWS)
            logits = functional.linear(hidden[span], head, bias)
            losses, to_logits = _cross_entropy(logits, targets[span] - first, ranks)
            total += losses.sum()
            if ctx.gradient is not None:
                torch.matmul(to_logits.to(head.dtype), head, out=ctx.gradient[span])
        if ctx.gradient is not None:
            ranks.sum(ctx.gradient)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return ctx.gradient.mul_(gradient), None, None, None, None, None


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (rows,) and their gradients by this rank's logits; targets outside 0:width belong to other ranks."""
    logits = logits.float()
    logits -= ranks.max(logits.amax(dim=-1, keepdim=True))
    mine = (targets >= 0) & (targets < logits.shape[-1])
    column = targets.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
    at_target = ranks.sum(logits.gather(-1, column).squeeze(-1).mul_(mine))
    exponents = logits.exp_()
    total = ranks.sum(exponents.sum(dim=-1, keepdim=True))
    probabilities = exponents.div_(total)
    probabilities.scatter_add_(-1, column, -mine.unsqueeze(-1).float())
    return total.log().squeeze(-1) - at_target, probabilities


class Checkpointed(Function):
    """Run `block(hidden)`, save only its input, and run it again in the backward pass (Chen et al. 2016).

    The block's parameters are leaves whose .grad is filled by the inner backward pass. `anchor` is any tensor that
    requires a gradient, because the first block's input does not.
    """

    @staticmethod
    def forward(ctx, block, hidden: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        ctx.block = block
        ctx.save_for_backward(hidden)
        return block(hidden)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        hidden = ctx.saved_tensors[0].detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad():
            torch.autograd.backward(ctx.block(hidden), gradient)
        return None, hidden.grad, None
