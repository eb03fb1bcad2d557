"""Requests are read as OpenAI's API defines them, and refused by the name of their field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.serving import openai_api
from common.serving.openai_api import Answer, ApiError, Format, parse_body, parse_options

CHAT = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


def body(content: object, kind: str = "completion") -> dict[str, Any]:
    return parse_body(json.dumps(content).encode(), kind)


def refused(call, *args: Any) -> tuple[str, str | None]:
    """The message and the field of an error."""
    with pytest.raises(ApiError) as error:
        call(*args)
    content = error.value.content["error"]
    return content["message"], content["param"]


def test_null_is_a_field_that_is_not_there() -> None:
    assert body({"prompt": "a", "seed": None, "logit_bias": None}) == {"prompt": "a"}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"3", b'{"prompt": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(content: bytes) -> None:
    message, _ = refused(parse_body, content, "completion")
    assert message.startswith("The request body")


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("max_token", 3, "did you mean max_tokens?"),
        ("messages", [], "the options are"),  # of a chat only
        ("n", 2, "n is not supported by this server; leave it out"),
        ("n", True, "n is not supported"),  # which equals 1
        ("logprobs", 1, "logprobs is not supported"),
    ],
)
def test_an_option_that_would_change_the_answer_is_refused(field: str, value: object, hint: str) -> None:
    message, param = refused(body, {field: value})
    assert hint in message and param == field


def test_an_option_of_no_effect_is_accepted() -> None:
    assert body({"n": 1, "user": "me", "logit_bias": {}, "stream": True})


def test_a_completion_has_16_tokens_and_a_chat_as_many_as_fit() -> None:
    assert parse_options(body({"model": "base"}), False, 10).max_tokens == 16
    assert parse_options(body(CHAT, "chat"), True, 10).max_tokens is None
    chat = body({**CHAT, "max_tokens": 3, "max_completion_tokens": 5}, "chat")
    assert parse_options(chat, True, 10).max_tokens == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1), ("temperature", "hot"), ("temperature", True), ("top_p", 0), ("max_tokens", 0),
        ("max_tokens", 1.5), ("min_tokens", 17), ("seed", 2**63), ("stop", ""), ("stop", [1]), ("stream", "yes"),
        ("stop_token_ids", [10]), ("stop_token_ids", ["a"]), ("model", 3),
    ],
)  # fmt: skip
def test_a_value_out_of_range_names_its_field(field: str, value: object) -> None:
    message, param = refused(parse_options, body({"model": "base", field: value}), False, 10)
    assert param == field and (field in message or "out of vocabulary" in message)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", [1]], ["a", [1]]), (["", "b"], ["", "b"])],
)
def test_a_prompt_is_text_or_tokens_or_a_list_of_these(prompt: object, prompts: list) -> None:
    assert openai_api.parse_prompts({"prompt": prompt}) == prompts


@pytest.mark.parametrize("prompt", [None, [], [[]], [1, "a"], [True], {"a": 1}])
def test_another_prompt_is_refused(prompt: object) -> None:
    assert refused(openai_api.parse_prompts, {"prompt": prompt})[1] == "prompt"


def test_parts_of_a_message_become_one_text() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [message] = openai_api.parse_messages({"messages": [{"role": "user", "content": content, "name": None}]})
    assert message == {"role": "user", "content": "a\nb"}


def test_tools_are_shown_to_the_model_only_if_nobody_has_to_parse_its_calls() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert openai_api.parse_tools({"tools": tools, "tool_choice": "none"}) == tools
    assert openai_api.parse_tools({}) == []
    assert refused(openai_api.parse_tools, {"tools": tools})[1] == "tool_choice"


def test_prompt_and_answer_must_fit_the_model() -> None:
    assert openai_api.check_length([1] * 6, None, 10) == 4
    assert openai_api.check_length([1] * 6, 4, 10) == 4
    assert "you requested 11 tokens (6 in the prompt, 5" in refused(openai_api.check_length, [1] * 6, 5, 10)[0]
    assert refused(openai_api.check_length, [1] * 10, None, 10)[1] == "max_tokens"


def test_adapters_name_their_base_model() -> None:
    models = openai_api.model_list(["base", "sql"])["data"]
    assert [(model["id"], model["parent"]) for model in models] == [("base", None), ("sql", "base")]


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_adds_up_to_the_response(chat: bool) -> None:
    options = parse_options({"model": "base", "return_token_ids": True}, chat, 10)
    pieces = [Answer([1, 2], "a", [3], None), Answer([1, 2], "b", [4], "stop")]
    whole = Answer([1, 2], "ab", [3, 4], "stop")
    form = Format(options, chat)
    chunks = [form.chunk(0, piece, first=number == 0) for number, piece in enumerate(pieces)]
    response = form.response([whole])
    choice = response["choices"][0]
    text = choice["message"]["content"] if chat else choice["text"]
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert text == "".join(delta["delta"]["content"] if chat else delta["text"] for delta in deltas) == "ab"
    assert choice["token_ids"] == [token for delta in deltas for token in delta["token_ids"]]
    places = (response, chunks[0]) if chat else (choice, deltas[0])
    assert all(place["prompt_token_ids"] == [1, 2] for place in places)
    assert deltas[-1]["finish_reason"] == choice["finish_reason"] == "stop"
    assert {chunk["id"] for chunk in chunks} == {response["id"]}
    assert form.last_chunk([whole])["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
