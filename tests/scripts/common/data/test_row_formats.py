from __future__ import annotations

import pytest

from common.data.conversation import Unusable
from common.data.row_formats import FORMATS, holds_turns, named, recognise, template
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
    with pytest.raises(Unusable, match="the columns q, a are of no known format .*alpaca: instruction, output"):
        recognise({"q": 1, "a": 1})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["Question ", "answer"], "call 'Question ', 'answer' question, answer, and they are question_answer"),
        (["text", "role", "parent_id"], "each row is one turn of a conversation; write one row for each"),
        (["title", "paragraphs"], "as in SQuAD; write one row for each question"),
    ],
)
def test_what_is_nearly_a_format_is_told_with_what_to_do(columns, message):
    with pytest.raises(Unusable, match=message):
        recognise(dict.fromkeys(columns, "a"))


def test_of_the_columns_of_several_formats_those_with_a_value_count():
    assert recognise({"messages": None, "instruction": "i", "output": "o"}) == "alpaca"
    assert recognise({"instruction": "i", "output": None}) == "alpaca"


def test_the_control_plane_knows_the_same_formats():
    assert {name: kind.required for name, kind in FORMATS.items()} == REQUIRED
    assert tuple(REQUIRED) == ROW_FORMATS


def written(name: str, row: dict, chat: bool, **options) -> tuple[str, str]:
    made = template(name, list(row), holds_turns(name, row), chat, **options)
    return made.render(row), made.response(row)


def test_plain_prompts():
    assert written("alpaca", ROWS["alpaca"], False) == ("### Instruction\ni\n\n### Input\nn\n\n### Response\n", "o")
    assert written("dolly", {"instruction": "i", "response": "r"}, False) == ("### Instruction\ni\n\n### Answer\n", "r")
    assert written("prompt_completion", ROWS["prompt_completion"], False) == ("p", "c")
    assert written("text", ROWS["text"], True) == ("", "t")
    row = ROWS["question_answer"] | {"system": "s"}
    assert written("question_answer", row, False)[0] == "s\n\n### Question\nq\n\n### Answer\n"


def test_chats_of_one_turn():
    made = template("alpaca", ["instruction", "input", "output"], False, True, "Be kind.")
    assert made.messages(ROWS["alpaca"]) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "i\n\nn"},
    ]
    row = {"prompt": "p", "completion": "c", "system": "{x}"}
    assert template("prompt_completion", list(row), False, True).messages(row)[0]["content"] == "{x}"


def test_prompt_and_completion_may_be_turns():
    row = {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]}
    assert holds_turns("prompt_completion", row)
    made = template("prompt_completion", list(row), True, True)
    assert made.turns == ("prompt", "completion")
    assert made.conversation(row).answers == [1]
    assert made.conversation({"prompt": "p", "completion": "c"}) == made.conversation(row), "a text is a turn too"


def test_conversations_need_a_chat_template():
    with pytest.raises(BadInput, match="need a model with a chat template"):
        template("messages", ["messages"], True, False)
    with pytest.raises(BadInput, match="no column 'instruction'.*alpaca"):
        named("alpaca", {"a": 1})


def test_a_history_comes_before_the_last_question():
    row = {"instruction": "Why?", "input": "", "output": "So.", "history": [["Who?", "Me."], ["You?", "Yes."]]}
    made = template("alpaca", list(row), False, True, "Be kind.")
    found = made.conversation(row)
    assert [turn["content"] for turn in found.messages] == ["Be kind.", "Who?", "Me.", "You?", "Yes.", "Why?", "So."]
    assert found.answers == [2, 4, 6]
    assert made.question(row) == {"messages": found.messages[:-1]}
    assert not made.has_turns(row | {"history": []})
    with pytest.raises(Unusable, match="not a list of pairs"):
        made.conversation(row | {"history": ["Who?"]})
