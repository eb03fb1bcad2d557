"""train_optimum.py: what it refuses, the data it feeds, and that all it asks of optimum-neuron exists in 0.4.5."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import train_optimum
from common import program
from common.data.token_dataset import TokenSet
from common.formats import model_config
from common.training.optimizer import Plan
from common.training.optimum import data as optimum_data
from tests.scripts.training_files import LLAMA3_ROPE, make_model, make_tokens

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "tests/data/optimum_0_4_5.json").read_text())
SOURCE = ast.parse((ROOT / "scripts/common/training/optimum/trainer.py").read_text())
ARGUMENTS = RECORD["arguments"]
TAKEN = {
    "NeuronSFTConfig": {*ARGUMENTS["NeuronTrainingArguments"], *ARGUMENTS["SFTConfig"]},
    "LoraConfig": {*ARGUMENTS["LoraConfig"], *ARGUMENTS["PeftConfig"]},
    "_Trainer": {*ARGUMENTS["NeuronSFTTrainer.__init__"]},
    "NeuronModelForCausalLM": {*ARGUMENTS["NeuronModelMixin.from_pretrained"]},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimum")
    make_model(folder / "model")
    make_tokens(folder / "tokens")
    return folder


def refused(files: Path, capsys: pytest.CaptureFixture[str], *flags: str, model: str = "model") -> str:
    """Run the program in this process, see it refuse, and return the one line that it says."""
    output = files / "out"
    argv = ["--model", str(files / model), "--data", str(files / "tokens"), "--output", str(output), *flags]
    assert program.main(train_optimum.run, train_optimum.flags(), argv) == 2
    assert not output.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "flags", "world", "message"),
    [
        (
            {"model_type": "gpt2"},
            [],
            1,
            "model_type 'gpt2' is not supported, only llama, mistral, qwen2, qwen3",
        ),
        ({"model_type": "mistral"}, [], 1, "'mistral' is not supported by the trainer optimum, only by torch, nxd"),
        ({}, ["--tp-size", "2"], 3, "--tp-size 2 does not divide the 3 processes of this run"),
        ({}, ["--tp-size", "3"], 3, "--tp-size 3 does not divide num_attention_heads"),
        ({}, ["--targets", "gate_proj"], 1, "gate_proj, up_proj are one fused layer: add up_proj, or drop all"),
        ({"num_key_value_heads": 1}, ["--tp-size", "2", "--targets", "q_proj", "v_proj"], 2, "layer: add k_proj"),
        ({"rope_parameters": {"rope_theta": 5e5}}, [], 1, "does not read rope_parameters: add rope_theta 500000.0"),
        ({"rope_parameters": LLAMA3_ROPE}, [], 1, "and rope_scaling with its other values"),
        ({}, ["--targets", "q_proj", "v_proj"], 1, "has no optimum-neuron"),  # no head is copied: allowed
        ({}, [], 1, "has no optimum-neuron: pip install 'optimum-neuron[training]==0.4.5'"),
    ],
)
def test_what_the_library_cannot_do_is_refused(files, tmp_path, capsys, monkeypatch, changes, flags, world, message):
    config = json.loads((files / "model" / "config.json").read_text())
    folder = tmp_path / "model"
    folder.mkdir()
    for key in ("rope_parameters", "rope_theta"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    assert message in refused(files, capsys, "--tp-size", "1", *flags, model=str(folder))


def test_every_argument_exists_in_the_version_that_is_named() -> None:
    seen = set()
    for call in (node for node in ast.walk(SOURCE) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", None)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained":
            name = getattr(call.func.value, "id", None)
        if name in TAKEN:
            seen.add(name)
            assert {keyword.arg for keyword in call.keywords} <= TAKEN[name], name
    assert seen == set(TAKEN)


def test_what_is_overridden_exists() -> None:
    classes = {node.name: node for node in SOURCE.body if isinstance(node, ast.ClassDef)}
    parents = {"_Trainer": "NeuronTrainer", "_Reporter": "TrainerCallback"}
    for name, parent in parents.items():
        methods = [node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)]
        assert [f"{parent}.{method}" for method in methods if method != "__init__"] == [
            each for each in (f"{parent}.{method}" for method in methods) if each in ARGUMENTS
        ]


def test_versions_and_models_are_those_of_the_record() -> None:
    families = model_config.FAMILIES
    assert sorted(name for name in families if "optimum" in families[name]["trainers"]) == RECORD["models"]
    assert train_optimum.LIBRARY.endswith(f"=={RECORD['versions']['optimum-neuron']}")
    assert {"trl==0.24.0", "peft==0.17.0"} <= set(RECORD["training"])


def test_an_adapter_is_always_asked_for() -> None:
    """peft_config=None would train the whole model without a word."""
    calls = [node for node in ast.walk(SOURCE) if isinstance(node, ast.Call)]
    trainer = next(call for call in calls if getattr(call.func, "id", "") == "_Trainer")
    peft = next(keyword.value for keyword in trainer.keywords if keyword.arg == "peft_config")
    assert ast.unparse(peft) == "lora_config(self.args)"
    function = next(node for node in SOURCE.body if getattr(node, "name", "") == "lora_config")
    assert isinstance(function, ast.FunctionDef)
    assert [ast.unparse(node).split("(")[0] for node in function.body[1:]] == ["return LoraConfig"]


@pytest.fixture
def data(files: Path) -> TokenSet:
    return TokenSet(files / "tokens", "train")


def test_every_step_is_whole_and_every_sequence_is_seen(data: TokenSet) -> None:
    plan = Plan(len(data), batch_size=2, accumulate=2, epochs=2, max_steps=0, seed=3)
    stream = optimum_data.Stream(data, plan, 0)
    assert len(stream) == plan.steps * 4 == 24, "10 sequences: two steps of 4, and one of 2 that is filled up"
    for epoch in range(2):
        steps = [stream.sequences(step) for step in range(epoch * 3, epoch * 3 + 3)]
        assert set(np.concatenate(steps)) == set(range(10))
        assert list(np.concatenate(steps)[:10]) == list(dict.fromkeys(np.concatenate(steps))), "repeats fill up"
    with pytest.raises(IndexError):
        stream[len(stream)]


def test_a_training_that_goes_on_sees_what_was_left(data: TokenSet) -> None:
    plan = Plan(len(data), batch_size=2, accumulate=1, epochs=1, max_steps=4, seed=3)
    whole, rest = optimum_data.Stream(data, plan, 0), optimum_data.Stream(data, plan, 3)
    assert [row["input_ids"].tolist() for row in rest] == [whole[i]["input_ids"].tolist() for i in (6, 7)]


def test_tokens_of_a_step(data: TokenSet) -> None:
    stream = optimum_data.Stream(data, Plan(len(data), 3, 1, 1, 0, 0), 0)
    rows = [stream[index] for index in range(3)]
    useful, labelled = (sum(int((row[name] > limit).sum()) for row in rows) for name, limit in _LIMITS)
    assert stream.tokens(0) == (useful, labelled)


_LIMITS = (("segment_ids", 0), ("labels", -1))


def test_examples_of_a_sequence_do_not_see_each_other(data: TokenSet) -> None:
    rows = [optimum_data.Stream(data, Plan(len(data), 2, 1, 1, 0, 0), 0)[index] for index in range(2)]
    batch = optimum_data.Collator(masked=True, dtype=torch.float32)(rows)
    assert set(batch) == {"input_ids", "labels", "position_ids", "attention_mask"}
    length = len(rows[0]["input_ids"])
    assert batch["attention_mask"].shape == (2, 1, length, length)
    for number, row in enumerate(rows):
        segments, start = row["segment_ids"], 0
        for place in range(length):
            start = place if place and segments[place] != segments[place - 1] else start
            assert batch["position_ids"][number, place] == place - start
            seen = (batch["attention_mask"][number, 0, place] == 0).nonzero().flatten().tolist()
            assert seen == list(range(start, place + 1))


def test_the_kernel_is_given_no_mask(data: TokenSet) -> None:
    row = optimum_data.Stream(data, Plan(len(data), 1, 1, 1, 0, 0), 0)[0]
    assert set(optimum_data.Collator(masked=False, dtype=torch.bfloat16)([row])) == {"input_ids", "labels"}
