from __future__ import annotations

import pytest

from common.data.row_formats import FORMATS, recognise, template
from common.program import BadInput
from runner.compose.schema import ROW_FORMATS
from runner.plan.checks.row_formats import REQUIRED

ROWS = {
    "messages": {"messages": [], "prompt": "", "completion": ""},
    "conversations": {"id": 1, "conversations": []},
    "prompt_completion": {"prompt": "p", "completion": "c"},
    "alpaca": {"instruction": "i", "input": "n", "output": "o", "text": "t"},
    "dolly": {"instruction": "i", "context": "c", "response": "r", "category": "k"},
    "question_answer": {"question": "q", "answer": "a"},
    "text": {"text": "t", "meta": {}},
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised_by_its_columns(name):
    assert recognise(ROWS[name]) == name


def test_columns_of_no_format_are_told_with_the_formats():
    with pytest.raises(BadInput, match="the columns q, a are none of a known format.*alpaca: instruction, output"):
        recognise(["q", "a"])


def test_the_control_plane_knows_the_same_formats():
    assert {name: kind.required for name, kind in FORMATS.items()} == REQUIRED
    assert tuple(REQUIRED) == ROW_FORMATS


def written(name: str, row: dict, chat: bool, **options) -> tuple[str, str]:
    made = template(name, row, list(row), chat, **options)
    return made.render(row), made.response(row)


def test_plain_prompts():
    assert written("alpaca", ROWS["alpaca"], False) == ("### Instruction\ni\n\n### Input\nn\n\n### Response\n", "o")
    assert written("dolly", {"instruction": "i", "response": "r"}, False) == ("### Instruction\ni\n\n### Answer\n", "r")
    assert written("prompt_completion", ROWS["prompt_completion"], False) == ("p", "c")
    assert written("text", ROWS["text"], True) == ("", "t")
    row = ROWS["question_answer"] | {"system": "s"}
    assert written("question_answer", row, False)[0] == "s\n\n### Question\nq\n\n### Answer\n"


def test_chats_of_one_turn():
    made = template("alpaca", ROWS["alpaca"], ["instruction", "input", "output"], True, "Be kind.")
    assert made.messages(ROWS["alpaca"]) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "i\n\nn"},
    ]
    row = {"prompt": "p", "completion": "c", "system": "{x}"}
    assert template("prompt_completion", row, list(row), True).messages(row)[0]["content"] == "{x}"


def test_prompt_and_completion_may_be_turns():
    row = {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]}
    made = template("prompt_completion", row, list(row), True)
    assert made.turns == ("prompt", "completion")
    assert made.conversation(row).answers == [1]


def test_conversations_need_a_chat_template():
    with pytest.raises(BadInput, match="need a model with a chat template"):
        template("messages", ROWS["messages"], ["messages"], False)
    with pytest.raises(BadInput, match="no column 'instruction'.*alpaca"):
        template("alpaca", {"a": 1}, ["a"], False)
