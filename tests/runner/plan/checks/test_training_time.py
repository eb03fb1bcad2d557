"""The time of a training follows from its operations, which PyTorch's own counter confirms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from runner.compose.schema import Architecture, Recipe
from runner.plan.checks import training_time
from tests.runner.plan.checks.test_impossible import changed, composed

SHAPE = Architecture(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=96,
)  # fmt: skip
LENGTH = 32


def recipe_of(**train: object) -> Recipe:
    recipe = changed(composed("trn2", "neuron_2_29"), "train", batch_size=2, accumulate=3, epochs=2, **train)
    return changed(changed(recipe, "dataset", seq_len=LENGTH), "hardware", core_tflops=100.0, price_per_hour=36.0)


def counted(recomputes: bool) -> int:
    """Operations a token of a frozen Llama's forward and backward pass, as PyTorch counts them."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    shape = {name: getattr(SHAPE, name) for name in (*names, "vocab_size")}
    model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="eager")).train().requires_grad_(False)
    if recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = torch.randn(1, LENGTH, SHAPE.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):  # a layer is recomputed whole
        model(inputs_embeds=inputs).logits.sum().backward()
    return counter.get_total_flops() // LENGTH


@pytest.mark.parametrize("recomputes", [False, True])
def test_operations_are_those_that_pytorch_counts(recomputes: bool) -> None:
    recipe = changed(recipe_of(), "train", backend="optimum", gradient_checkpointing=recomputes)
    rotary = 0.01  # the rotary embedding is not counted
    assert training_time.operations_per_token(recipe, SHAPE) == pytest.approx(counted(recomputes), rel=rotary)


def test_cores_copies_and_machines_share_the_work() -> None:
    recipe = recipe_of()
    alone = training_time.training_time(recipe, SHAPE, steps=10)
    assert alone
    tokens = 10 * 2 * 3 * LENGTH
    at_peak = tokens * training_time.operations_per_token(recipe, SHAPE) / (8 * 100e12)
    assert (alone.shortest, alone.longest) == pytest.approx((at_peak / 0.3, at_peak / 0.1))
    copies = changed(recipe, "parallel", dp_size=4, nodes=2)
    assert training_time.steps(recipe, 600) == 200 and training_time.steps(copies, 600) == 26
    assert training_time.training_time(copies, SHAPE, steps=10) == alone  # 8 times the tokens on 8 times the cores
    assert alone.cost(36.0, machines=2) == pytest.approx((alone.shortest / 50, alone.longest / 50))


def test_copies_are_those_of_a_trainer_with_data_parallelism() -> None:
    recipe = changed(changed(recipe_of(), "parallel", nodes=2), "train", backend="torch")
    assert training_time.copies(recipe) == 1


@pytest.mark.parametrize("unknown", ["hardware", "train"])
def test_without_a_known_peak_no_time_is_given(unknown: str) -> None:
    values = {"hardware": {"core_tflops": None}, "train": {"dtype": "fp32"}}[unknown]
    assert training_time.training_time(changed(recipe_of(), unknown, **values), SHAPE, 10) is None


@pytest.mark.parametrize(("billions", "per_second", "share"), [(8.03, 41.99, 0.170), (70.55, 7.51, 0.268)])
def test_the_range_includes_what_aws_published(billions: float, per_second: float, share: float) -> None:
    chips, peak, length = 32 * 16, 190e12, 8192
    reached = per_second * length * 6 * billions * 1e9 / (chips * peak)
    assert reached == pytest.approx(share, abs=0.001)
    assert training_time.UTILIZATION[0] < reached < training_time.UTILIZATION[1]


def test_every_neuron_instance_has_a_peak() -> None:
    for file in Path("configs/hardware").glob("t*.yaml"):
        assert "core_tflops:" in file.read_text(), file
