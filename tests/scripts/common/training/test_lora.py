"""The adapter of a rank: what it starts from, and its file format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.formats.peft_folder import LoraConfig
from common.shards.layout import TARGETS, read_layout, read_shape
from common.training.lora import Adapter
from tests.scripts.training_files import make_model, make_shards


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    make_shards(make_model(folder / "model", head_dim=8), folder / "tp4", 4, 2)
    make_shards(folder / "model", folder / "tp1")
    return folder


def adapter_of(shards: Path, rank: int, seed: int = 0, targets: tuple[str, ...] = TARGETS) -> Adapter:
    return Adapter(read_shape(shards), read_layout(shards), rank, LoraConfig(4, 8, 0.0, False, targets), seed)


@pytest.mark.parametrize("targets", [("self_attn.q_proj", "self_attn.v_proj"), ("mlp.up_proj", "self_attn.k_proj")])
def test_an_adapter_comes_back_from_nxds_tensors(files, targets):
    shape, layout = read_shape(files / "tp4"), read_layout(files / "tp4")
    lora = LoraConfig(4, 8, 0.0, False, tuple(target.partition(".")[2] for target in targets))
    drawn, empty = (Adapter(shape, layout, 3, lora, seed) for seed in (1, 2))
    drawn.weights.normal_()
    empty.load(drawn.tensors())
    found, expected = empty.tensors(), drawn.tensors()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_every_number_of_ranks_starts_from_the_same_adapter(files):
    whole = adapter_of(files / "tp1", 0).module(0, "mlp.down_proj")
    parts = [adapter_of(files / "tp4", rank).module(0, "mlp.down_proj") for rank in range(4)]
    assert torch.equal(torch.cat([part.lora_a for part in parts], dim=1), whole.lora_a)
    assert not any(part.lora_b().any() for part in parts), "lora_B starts at zero"


def test_an_adapter_that_learned_nothing_has_a_fault(files):
    adapter = adapter_of(files / "tp1", 0)
    assert "all zero" in str(adapter.fault())
    adapter.weights.normal_()
    assert adapter.fault() is None
    adapter.weights[3] = torch.nan
    assert adapter.fault()


def test_a_projection_that_is_not_targeted_has_no_parameters(files):
    adapter = adapter_of(files / "tp4", 0, targets=("q_proj",))
    assert adapter.module(0, "mlp.down_proj") is None
    assert set(adapter.module(0, "self_attn.qkv_proj").parts) == {"self_attn.q_proj"}


def test_gradients_are_views_of_one_buffer(files):
    adapter = adapter_of(files / "tp1", 0)
    adapter.gradient.zero_()
    adapter.module(0, "mlp.down_proj").lora_a.square().sum().backward()
    assert adapter.gradient.any()
