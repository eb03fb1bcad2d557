from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from common.formats.peft_folder import check_adapter
from common.program import BadInput

Tensors = dict[str, numpy.ndarray]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tiny_adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_adapter, tmp_path / "adapter")


def change(adapter: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


def test_an_adapter_made_by_peft_fits(tiny_adapter, tiny_model):
    check_adapter(tiny_adapter, tiny_model)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A": t.pop(f"{Q}.lora_A.weight")}), "fits no target"),
        (lambda t: t.update({Q.replace(".0.", ".7.") + ".lora_A.weight": t[f"{Q}.lora_A.weight"]}), "fits no target"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "q_proj.lora_B.weight is missing"),
        (lambda t: t.clear(), "is missing"),
        (lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:, :9].copy()}), r"has shape \(4, 9\)"),
        (lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:2].copy()}), r"rank 4 .* need \(4, 64\)"),
        (lambda t: [t[name].fill(0) for name in t if "lora_B" in name], "every lora_B is zero"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(adapter, tiny_model, edit, message):
    change(adapter, edit)
    with pytest.raises(BadInput, match=message):
        check_adapter(adapter, tiny_model)


def test_a_target_module_without_weights_is_missing(adapter, tiny_model):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj", "k_proj"]}))
    with pytest.raises(BadInput, match="fits no target module"):
        check_adapter(adapter, tiny_model)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"peft_type": "IA3", "r": 1, "target_modules": []}'])
def test_a_bad_config_is_named(adapter, tiny_model, content):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        check_adapter(adapter, tiny_model)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_cut_file_is_named(adapter, tiny_model, size):
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(BadInput, match=r"adapter_model\.safetensors"):
        check_adapter(adapter, tiny_model)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"alpha_pattern": {"q_proj": 3}}, {"fan_in_fan_out": True}])
def test_other_arithmetic_is_refused(adapter, tiny_model, change):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BadInput, match=f"{next(iter(change))}.* is not supported"):
        check_adapter(adapter, tiny_model)
