"""A tiny Llama, its tokenizer and a LoRA adapter, as the files that the stage programs read."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from common.data.template import Template
    from common.data.tokenizer import PromptTokenizer

CHAT_TEMPLATE = """{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}"""
VOCABULARY = 384


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Started in the background, a shell has the tests, and so what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers with grouped-query attention; special tokens <s> 0, </s> 1."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT folder of rank 4 on q_proj, v_proj and down_proj, large enough to change the answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "adapter"
    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokens(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens folder (eval.jsonl and template.json alone) of 12 questions with a SQL answer."""
    from common.data.template import Template
    from common.data.tokenizer import PromptTokenizer

    folder = tmp_path_factory.mktemp("tiny") / "tokens"
    folder.mkdir()
    template = Template(sections=("{question}", "{context}", "SQL: "), answer="{answer}", separator="\n")
    (folder / "template.json").write_text(template.to_json())
    tokenizer = PromptTokenizer(tiny_model, template)
    (folder / "eval.jsonl").write_text("".join(_example(tokenizer, template, number) for number in range(12)))
    return folder


def _example(tokenizer: PromptTokenizer, template: Template, number: int) -> str:
    answer = f"SELECT name FROM {'x' * number}t WHERE age > {number}"
    context = f"CREATE TABLE {'x' * number}t (name TEXT, age INTEGER)"
    fields = {"question": f"Older than {number}?", "context": context, "answer": answer, "rows": ""}
    prompt, response = tokenizer.texts(fields)[0].prompt, template.response(fields)
    (prompt_ids,), (response_ids,) = tokenizer.prompt_ids([prompt]), tokenizer.response_ids([prompt], [response])
    example = {"prompt": prompt, "prompt_ids": prompt_ids, "response": response, "response_ids": response_ids}
    return json.dumps({**example, "fields": fields}) + "\n"


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
