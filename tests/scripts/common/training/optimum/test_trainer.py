"""All that the trainer uses of optimum-neuron exists in the version that it names: `make test-optimum` runs it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

ROOT = Path(__file__).parents[5]
RECORD = json.loads((ROOT / "tests/data/optimum_0_4_5.json").read_text())
SOURCE = ast.parse((ROOT / "scripts/common/training/optimum/trainer.py").read_text())
ARGUMENTS = RECORD["arguments"]
TAKEN = {
    "NeuronSFTConfig": {*ARGUMENTS["NeuronTrainingArguments"], *ARGUMENTS["SFTConfig"]},
    "LoraConfig": {*ARGUMENTS["LoraConfig"], *ARGUMENTS["PeftConfig"]},
    "_Trainer": {*ARGUMENTS["NeuronSFTTrainer.__init__"]},
    "NeuronModelForCausalLM": {*ARGUMENTS["NeuronModelMixin.from_pretrained"]},
}


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


def test_an_adapter_is_always_trained() -> None:
    """peft_config=None would train the whole model without a word."""
    calls = [node for node in ast.walk(SOURCE) if isinstance(node, ast.Call)]
    trainer = next(call for call in calls if getattr(call.func, "id", "") == "_Trainer")
    peft = next(keyword.value for keyword in trainer.keywords if keyword.arg == "peft_config")
    assert ast.unparse(peft) == "lora_config(self.args)"
    function = next(node for node in SOURCE.body if getattr(node, "name", "") == "lora_config")
    assert isinstance(function, ast.FunctionDef)
    assert [ast.unparse(node).split("(")[0] for node in function.body[1:]] == ["return LoraConfig"]
