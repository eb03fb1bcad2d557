"""What is read of a model before it answers. That it answers as transformers does is in test_adapted_model.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from common.inference import loading
from common.program import BadInput


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy whose files may be changed."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


def stop_ids(model: Path) -> frozenset[int]:
    return loading.stop_token_ids(model, Tokenizer.from_file(str(model / "tokenizer.json")))


def test_the_limits_are_those_of_the_config(model: Path) -> None:
    assert loading.limits(model) == (256, 384)
    change(model / "config.json", vocab_size=None)
    with pytest.raises(BadInput, match=f"{model}/config.json: vocab_size is missing"):
        loading.limits(model)


def test_prompt_and_answer_must_fit_the_context() -> None:
    prompts = [[0] * 3, [0] * 10]
    loading.check_context("--max-tokens", 6, prompts, 16)
    with pytest.raises(BadInput, match="--max-tokens 7: the longest prompt has 10 tokens .* use at most 6"):
        loading.check_context("--max-tokens", 7, prompts, 16)


def test_any_end_token_of_the_model_and_of_its_tokenizer_ends_an_answer(model: Path) -> None:
    assert stop_ids(model) == {1}
    change(model / "generation_config.json", eos_token_id=[7, 9])
    assert stop_ids(model) == {1, 7, 9}


def test_a_model_without_an_end_token_is_refused(model: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        change(model / name, eos_token_id=None)
    change(model / "tokenizer_config.json", eos_token=None)
    (model / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(BadInput, match=f"{model}: no end token"):
        stop_ids(model)


def test_damaged_weights_and_adapters_are_found_by_their_headers(model: Path, tiny_adapter: Path, tmp_path) -> None:
    loading.check_model(model, [tiny_adapter])
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(BadInput, match="adapter_model.safetensors"):
        loading.check_model(model, [tiny_adapter, adapter])
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInput, match="model.safetensors: cut off"):
        loading.check_model(model, [])


def test_weights_that_the_config_does_not_have_are_refused(model: Path) -> None:
    change(model / "config.json", num_hidden_layers=1)
    with pytest.raises(BadInput, match="unexpected keys in its weights: .*model.layers.1"):
        loading.load_model(model, {}, "fp32")
