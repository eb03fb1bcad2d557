"""Operations with gradients of their own, against those that torch derives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from common.training.cpu.autograd_ops import Checkpointed, CrossEntropy, LoraLinear, RmsNorm, SwiGlu
from common.training.masks import MASKED_SCORE
from common.training.parallel import Ranks


def assert_same_gradients(ours: Callable, plain: Callable, *inputs: torch.Tensor) -> None:
    """Both functions have the same output and the same gradients of all inputs."""
    results = []
    for function in (ours, plain):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        output = function(*leaves)
        output.square().sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results)


def test_lora_linear_with_dropout_has_the_gradients_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    x, weight, lora_a, lora_b = (torch.randn(size) for size in ((7, 6), (5, 6), (3, 6), (5, 3)))
    keep = torch.rand(7, 6) > 0.4
    assert_same_gradients(
        lambda x, a, b: LoraLinear.apply(x, weight, a, b, 0.5, keep),
        lambda x, a, b: x @ weight.T + 0.5 * (x * keep) @ a.T @ b.T,
        x, lora_a, lora_b,
    )  # fmt: skip


def test_rms_norm_has_the_gradient_of_torch() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(7, 6), torch.randn(6)
    assert_same_gradients(
        lambda x: RmsNorm.apply(x, weight, 1e-5), lambda x: functional.rms_norm(x, (6,), weight, 1e-5), x
    )


def test_swiglu_has_the_gradient_of_its_formula() -> None:
    torch.manual_seed(0)
    assert_same_gradients(lambda x: SwiGlu.apply(x), lambda x: functional.silu(x[:, :4]) * x[:, 4:], torch.randn(7, 8))


def test_cross_entropy_in_blocks_of_rows_has_the_gradient_of_torch() -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(2500, 6), torch.randn(9, 6), torch.randint(0, 9, (2500,))
    assert_same_gradients(
        lambda hidden: CrossEntropy.apply(hidden, head, None, targets, 0, Ranks()) / 1000,
        lambda hidden: functional.cross_entropy(hidden @ head.T, targets, reduction="sum") / 1000,
        hidden,
    )


def test_cross_entropy_leaves_out_tokens_with_a_bias_of_masked_scores() -> None:
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(7, 6), torch.randn(9, 6), torch.randint(0, 5, (7,))
    bias = torch.tensor([0.0] * 5 + [MASKED_SCORE] * 4)
    assert_same_gradients(
        lambda hidden: CrossEntropy.apply(hidden, head, bias, targets, 0, Ranks()),
        lambda hidden: functional.cross_entropy(hidden @ head[:5].T, targets, reduction="sum"),
        hidden,
    )


def test_a_recomputed_block_has_the_gradients_of_one_that_was_kept() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 6)
    assert_same_gradients(
        lambda x: Checkpointed.apply(lambda hidden: (hidden @ weight).tanh(), x, torch.zeros(1, requires_grad=True)),
        lambda x: (x @ weight).tanh(),
        torch.randn(7, 6),
    )
