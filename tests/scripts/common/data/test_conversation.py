from __future__ import annotations

import json

import pytest

from common.data.conversation import Unusable, conversation, for_server, read_messages

OPENAI = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
    {"role": "assistant", "content": "Hello."},
]
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Hi there"},
    {"from": "gpt", "value": "Hello."},
]
WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def test_two_ways_of_writing_are_one_conversation():
    expected = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello."},
    ]
    for turns in (OPENAI, SHAREGPT, json.dumps(OPENAI)):
        found = conversation([turns])
        assert (found.messages, found.answers, found.tools) == (expected, [2], [])


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [WEATHER]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
        {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
        {"from": "function_call", "value": '[{"name": "weather", "parameters": {"city": "Rome"}}]'},
        {"role": "assistant", "tool_calls": [{**WEATHER, "id": None}], "name": None, "tool_call_id": None},  # Parquet
    ],
)
def test_tool_calls_have_their_arguments_as_objects(turn):
    found = conversation([[{"role": "user", "content": "Weather?"}, turn]])
    assert found.messages[1] == {"role": "assistant", "content": "", "tool_calls": [WEATHER]}
    assert found.answers == [1]


def test_a_server_is_sent_what_comes_back_as_the_same():
    messages = read_messages([{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [WEATHER]}])
    sent = for_server(messages)
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert sent[1]["tool_calls"][0]["id"]
    read = read_messages(sent)
    assert read[1]["tool_calls"][0].pop("id")
    assert read == messages


def test_answers_of_the_last_column_are_learnt_unless_the_turn_says_otherwise():
    question, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
    assert conversation([[question, answer], [question, answer]]).answers == [3]
    marked = [question, answer | {"weight": 0}, question, answer | {"train": True}, question, answer | {"train": False}]
    assert conversation([marked]).answers == [3]
    assert conversation([marked], system="s").answers == [4]
    with pytest.raises(Unusable, match="weight 0.5"):
        conversation([[question, answer | {"weight": 0.5}]])


def test_a_system_message_is_for_conversations_without_one():
    turns = [{"role": "user", "content": "?"}]
    assert conversation([turns], system="s").messages[0] == {"role": "system", "content": "s"}
    assert len(conversation([OPENAI], system="s").messages) == 3


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER]), [{**WEATHER, "strict": None}]])
def test_tools_are_a_list_or_its_text(tools):
    assert conversation([OPENAI], tools).tools == [WEATHER]


def test_the_question_leaves_out_a_last_answer_alone():
    assert len(conversation([OPENAI]).question()["messages"]) == 2
    assert len(conversation([[*OPENAI, {"role": "user", "content": "?"}]]).question()["messages"]) == 4


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "no turns"),
        ("Hi", "a text, not a list"),
        ([1], "not a list of objects"),
        ([{"role": "asistant", "content": "a"}], "the role 'asistant'; known are system"),
        ([{"content": "a"}], "the role None"),
        ([{"role": ["user"], "content": "a"}], "the role \\['user'\\]"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": 5}], "a int as content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url; only text"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "no function with a name"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "of f are not JSON"),
        ([{"from": "function_call", "value": "f()"}], "not JSON"),
    ],
)
def test_what_is_no_conversation_is_told(turns, message):
    with pytest.raises(Unusable, match=message):
        conversation([turns])
    with pytest.raises(Unusable, match="tools are no JSON"):
        conversation([OPENAI], "f()")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_one_name(name):
    turns = [{"role": "user", "content": "?", name: "no"}, {"role": "assistant", "content": "!", name: "Hm."}]
    assert conversation([turns]).messages == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!", "reasoning_content": "Hm."},
    ]
    assert "reasoning_content" not in conversation([[turns[0], turns[1] | {name: None}]]).messages[1]


def test_a_greeting_before_the_first_question_is_context():
    greeting, question = {"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "?"}
    assert conversation([[greeting, question, greeting]]).answers == [2]
