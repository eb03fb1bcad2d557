"""A local model is refused by the plan for what the stage programs would refuse; both sides have the same cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import RECIPES
from runner.plan.checks import feasibility, model_config
from runner.targets import bundle

CASES = json.loads((Path(__file__).parents[3] / "data" / "model_configs.json").read_text())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECIPES / "assets" / "tiny_llama", tmp_path / "model"))


def change(model: Path, **values: object) -> None:
    path = model / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def refusal(model: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        feasibility.check(compose("quickstart", [f"model.path={model}", *overrides]).recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case["changes"])[:60])
def test_a_config_is_honoured_or_refused(tmp_path: Path, case: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **case["changes"]}))
    problems = list(model_config.problems(model_config.read(tmp_path, "model.path"), case["trainer"]))
    if case["problem"] is None:
        assert problems == []
    else:
        assert problems[0].startswith(case["problem"])


def test_the_plan_refuses_it_in_one_line(model: Path) -> None:
    change(model, hidden_act="gelu")
    assert refusal(model).startswith(f"model.path: {model}/config.json: hidden_act 'gelu' is not supported")


def test_sequences_longer_than_the_attention_window_are_refused(model: Path) -> None:
    change(model, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=256)
    feasibility.check(compose("quickstart", [f"model.path={model}", "dataset.seq_len=256"]).recipe)
    message = refusal(model, "dataset.seq_len=257")
    assert message.startswith("dataset.seq_len: 257 is more than the sliding_window 256 of model")


def test_a_model_on_the_hub_is_refused_for_a_trainer_without_its_family() -> None:
    overrides = ["model=qwen3_0_6b", "train=nxd_lora", "hardware=trn2"]
    problems = list(feasibility.problems(compose("quickstart", overrides).recipe))
    refused = "model_type 'qwen3' is not supported by the trainer nxd, only by torch, optimum"
    assert [problem for problem in problems if refused in problem]


def test_the_width_of_a_head_is_that_of_the_family(model: Path) -> None:
    change(model, model_type="qwen3", head_dim="absent")
    assert model_config.architecture(model, "model.path").head_width == 128


def test_a_llama_1_has_as_many_key_value_heads_as_heads(model: Path) -> None:
    change(model, num_key_value_heads="absent")
    assert model_config.architecture(model, "model.path").num_key_value_heads == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": "2"}, "num_key_value_heads: must be an integer, not '2'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 8"),
        ({"hidden_size": 256.0}, "hidden_size: must be an integer"),
        ({"vocab_size": True}, "vocab_size: must be an integer"),
        ({"max_position_embeddings": "absent"}, "max_position_embeddings is missing"),
    ],
)
def test_sizes_that_are_none(model: Path, changes: dict, message: str) -> None:
    change(model, **changes)
    assert f"model.path: {model}/config.json: {message}" in refusal(model)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model_type": "\udcff"}'])
def test_a_broken_config(model: Path, content: str) -> None:
    (model / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    assert f"model.path: {model}/config.json: not " in refusal(model)


def test_an_adapter_is_not_a_model(model: Path) -> None:
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}))
    for _ in range(2):
        message = refusal(model)
        assert "is a LoRA adapter of meta-llama/Llama-3.2-1B; set the key to its base model" in message
        (model / "config.json").unlink(missing_ok=True)


def test_shards_are_not_a_model(model: Path) -> None:
    (model / "model").mkdir()
    (model / "model" / "dp_rank_00_tp_rank_00_pp_rank_00.pt").touch()
    assert "contains shards of a model" in refusal(model)


def test_a_folder_without_tokenizer(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert f"model.path: {model}: no tokenizer.json" in refusal(model)
    assert f"model.tokenizer: {tmp_path}: no tokenizer.json" in refusal(model, f"model.tokenizer={tmp_path}")
    other = RECIPES / "assets" / "tiny_llama"
    feasibility.check(compose("quickstart", [f"model.path={model}", f"model.tokenizer={other}"]).recipe)


def test_weights_in_pickle_files(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model-00001-of-00002.bin")
    assert "*.bin files can run code" in refusal(model)


def test_a_file_that_the_index_names_is_missing(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert f"{model}/model-00002-of-00002.safetensors: no such file" in refusal(model)


def test_the_list_travels_with_the_programs() -> None:
    assert "scripts/common/formats/model_config.json" in bundle.code_files()
