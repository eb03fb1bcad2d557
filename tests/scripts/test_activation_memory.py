"""What runner/plan/checks/memory.py counts of activations beside what autograd keeps, a layer, on a small Llama."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.data import padded_batch
from common.data.token_dataset import TokenSet
from common.formats.peft_folder import LoraConfig
from common.shards.layout import TARGETS, read_layout, read_shape
from common.training.lora import Adapter
from common.training.neuron.llama import Device, Dropout, NeuronLlama
from common.training.parallel import Ranks
from runner.compose.schema import Architecture, Dataset, Hardware, Lora, Recipe, Train
from runner.plan.checks import memory
from tests.scripts.training_files import make_model, make_shards, make_tokens

ROWS, SEQ_LEN, RANK = 2, 128, 2
SIZES = Architecture(256, 512, 2, 8, 2, 64, 512)
OF_HF = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


class Uncompiled(Device):
    """Every operation is autograd's, so that a hook sees what it keeps."""

    def compile(self, program: Callable[..., Any]) -> Callable[..., Any]:
        return program


def kept(forward: Callable[[], object], frozen: set[int]) -> int:
    """Bytes that autograd keeps after `forward`, without the `frozen` storages."""
    found: dict[tuple[int, int], int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in frozen:
            found[tensor.data_ptr(), tensor.numel()] = tensor.numel() * tensor.element_size()
            alive.append(tensor)  # an address counts once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(forward())
    return sum(found.values())


def measured_here(folder: Path, layers: int, dropout: float) -> int:
    sizes = {name: getattr(SIZES, name) for name in OF_HF}
    shutil.rmtree(folder, ignore_errors=True)
    make_model(folder / "model", **{**sizes, "num_hidden_layers": layers, "head_dim": 32, "vocab_size": 128})
    shards = make_shards(folder / "model", folder / "shards")
    tokens = TokenSet(make_tokens(folder / "tokens", seq_len=SEQ_LEN, longest=SEQ_LEN), "train")
    config = LoraConfig(RANK, 4, dropout, use_rslora=False, targets=TARGETS)
    adapter = Adapter(read_shape(shards), read_layout(shards), 0, config, seed=0)
    device = Uncompiled("cpu", collectives="gloo", compiler="")
    model = NeuronLlama(shards, torch.float32, adapter, Ranks(), checkpointing=False, device=device)
    flat = adapter.weights.clone().requires_grad_()
    batch = padded_batch.batch(tokens, np.arange(ROWS), ROWS)
    frozen = {tensor.untyped_storage().data_ptr() for layer in model._layers for tensor in (*layer[:2], *layer.linears)}
    frozen.add(flat.untyped_storage().data_ptr())
    return kept(lambda: model.loss(flat, batch.tensors, Dropout(dropout)), frozen)


def measured_of_transformers(layers: int, again: bool) -> int:
    """With PEFT, as optimum-neuron has it."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {name: getattr(SIZES, name) for name in OF_HF}
    sizes |= {"num_hidden_layers": layers, "vocab_size": 128, "attn_implementation": "eager"}
    config = LlamaConfig(**sizes)
    model = get_peft_model(LlamaForCausalLM(config), PeftConfig(r=RANK, target_modules=list(_leaves())))
    if again:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(0, 128, (ROWS, SEQ_LEN))
    frozen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return kept(lambda: model.train()(input_ids=ids, labels=ids, use_cache=False).loss, frozen)


def _leaves() -> set[str]:
    return {name.rpartition(".")[2] for name in TARGETS}


def counted(layers: int, train: Train) -> int:
    recipe = Recipe(dataset=Dataset(seq_len=SEQ_LEN), train=train, hardware=Hardware("trn2", "neuron"))
    architecture = dataclasses.replace(SIZES, num_hidden_layers=layers)
    return memory.estimate(recipe, architecture, 1).activations


def assert_a_layer_is(measured: Callable[[int], int], train: Train) -> None:
    """Two layers more are counted as much as they are found to keep."""
    more = [count(4) - count(2) for count in (measured, lambda layers: counted(layers, train))]
    assert more[0] == pytest.approx(more[1], rel=0.15), more[0] / more[1]


def settings(backend: str, dropout: float = 0.0, again: bool = False) -> Train:
    lora = Lora(rank=RANK, dropout=dropout)
    return Train(backend=backend, dtype="fp32", batch_size=ROWS, gradient_checkpointing=again, lora=lora)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_native_pytorch_on_neuron(tmp_path, dropout):
    assert_a_layer_is(lambda layers: measured_here(tmp_path, layers, dropout), settings("torch", dropout))


@pytest.mark.parametrize("again", [False, True])
def test_transformers_and_peft(again):
    assert_a_layer_is(lambda layers: measured_of_transformers(layers, again), settings("optimum", again=again))
