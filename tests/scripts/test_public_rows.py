"""Rows of every format, written by the chat templates of well-known models: the assistant's words alone are learned.

The templates are those that TRL has for its tests; `make test` installs it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

import tokenize_dataset
from common import program
from common.data.chat_template import ChatTemplate
from common.data.conversation import read_messages
from tests.scripts.public_rows import Call, PublicRow, calls, rows

_SPEC = find_spec("trl")
TEMPLATES = Path(_SPEC.submodule_search_locations[0]) / "chat_templates" if _SPEC else None  # type: ignore[index]
pytestmark = pytest.mark.skipif(TEMPLATES is None, reason="pip install --no-deps trl")


class Family(NamedTuple):
    """What a template writes of an answer.

    Attributes:
        special: tokens of the model that the template writes; the last ends an answer.
        start: what it writes between the prompt that is asked and the answer.
        call: a call of a tool, with NAME and the ARGUMENTS as JSON; None if it writes none.
        apart: whether it writes earlier answers in another way, so that each is an example of its own.
    """

    special: tuple[str, ...]
    start: str = ""
    call: str | None = None
    apart: bool = False


_LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML = ("<|im_start|>", "<|im_end|>")
_DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
_QWEN_CALL = '<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>'
_LLAMA_CALL = '{"name": "NAME", "parameters": ARGUMENTS}'
_NO_THOUGHT = "<think>\n\n</think>\n\n"
FAMILIES = {
    "llama3": Family(_LLAMA),
    "llama3_1": Family(_LLAMA, call=_LLAMA_CALL),
    "qwen2_5": Family(_CHATML, call=_QWEN_CALL),
    "qwen3": Family(_CHATML, _NO_THOUGHT, _QWEN_CALL, apart=True),
    "qwen3_instruct_2507": Family(_CHATML, call=_QWEN_CALL),
    "phi3_5": Family(("<|user|>", "<|assistant|>", "<|end|>"), apart=True),
    "gemma3": Family(("<start_of_turn>", "<end_of_turn>")),
    "deepseekv3": Family(_DEEPSEEK, apart=True),
    "deepseek_r1_distill": Family(_DEEPSEEK, apart=True),
}


def model_of(name: str, family: Family, tiny_model: Path, folder: Path) -> Path:
    """A model folder with the template, and a tokenizer that has its special tokens."""
    assert TEMPLATES is not None
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny_model / file, folder)
    shutil.copy(TEMPLATES / f"{name}.jinja", folder / "chat_template.jinja")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = pre_tokenizers.Split(
        Regex(r"\s*\n+|\s?\w+|\s+"), "isolated"
    )  # as Llama 3's: the ends of lines stay together
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_alone])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": tokenizer.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def expected(row: PublicRow, family: Family, tokenizer: Tokenizer) -> list[str]:
    """What is learned of a row, a text for each example."""
    if "text" in row.fields:  # there is nothing before the first token to predict it from
        return [tokenizer.decode(tokenizer.encode(row.fields["text"]).ids[1:]) + "</s>"]
    answers = [family.start + _written(each, family) + family.special[-1] for each in row.said]
    return answers if family.apart else ["".join(answers)]


def _written(said: str | Call, family: Family) -> str:
    if isinstance(said, str):
        return said
    arguments = json.dumps(said.arguments, ensure_ascii=False)
    return str(family.call).replace("NAME", "get_weather").replace("ARGUMENTS", arguments)


def learned(output: Path, split: str, tokenizer: Tokenizer) -> Iterator[str]:
    """What carries loss in each example of a split, decoded."""
    arrays = (np.load(output / f"{split}.{name}.npy") for name in ("labels", "segment_ids"))
    for labels, segments in zip(*arrays, strict=True):
        for segment in range(1, segments.max() + 1):
            ids = labels[(segments == segment) & (labels >= 0)]
            yield tokenizer.decode(ids.tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_assistant_s_words_alone_are_learned(name: str, tiny_model: Path, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = model_of(name, family, tiny_model, tmp_path)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    wanted = [row for shape in rows().values() for row in shape if family.call or not any(calls(row))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row.fields) + "\n" for row in wanted))
    output = tmp_path / "out"
    argv = ["--model", model, "--input", tmp_path / "rows.jsonl", "--format", "auto", "--seq-len", 8192]
    words = [str(word) for word in [*argv, "--eval-rows", 100, "--output", output]]
    assert program.main(tokenize_dataset.run, tokenize_dataset.flags(), words) == 0
    found = [*learned(output, "train", tokenizer), *learned(output, "eval", tokenizer)]
    examples = [text for row in wanted for text in expected(row, family, tokenizer)]
    if family.apart:  # of a held-out row, the last answer is asked for
        assert set(found) <= set(examples)
        assert len(set(found)) > 0.9 * len(set(examples))
    else:
        assert sorted(found) == sorted(examples)
    check_questions(output, ChatTemplate.of(model), tokenizer, family)


def check_questions(output: Path, chat: ChatTemplate | None, tokenizer: Tokenizer, family: Family) -> None:
    """A held-out chat is asked for its last answer, by the tokens of which a server makes its prompt too."""
    assert chat is not None
    lines = [json.loads(line) for line in (output / "eval.jsonl").read_text().splitlines()]
    chats = [line for line in lines if "messages" in line]
    assert len(lines) == 100 and len(chats) > 80
    for line in chats:
        prompt = chat.render(read_messages(line["messages"]), tools=line.get("tools"))
        assert tokenizer.encode(prompt, add_special_tokens=False).ids == line["prompt_ids"]
        answer = tokenizer.decode(line["response_ids"], skip_special_tokens=False)
        assert answer == family.start + line["response"] + family.special[-1]
