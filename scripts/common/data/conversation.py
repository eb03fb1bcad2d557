"""Turns of a conversation as data sets write them, in the form that chat templates take.

Two ways of writing are common: OpenAI's and TRL's `role` and `content`, and ShareGPT's `from` and `value`. Both come
out as {"role": "system|user|assistant|tool", "content": text}, with `tool_calls` of an assistant whose arguments are
objects, as chat templates write them, not texts that hold JSON, as OpenAI's API has them. What an assistant thought
before its answer is `reasoning_content`, as for Qwen3 and DeepSeek, however the data set calls it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.program import BadInput

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "ipython": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_CALLS = {"function_call", "tool_call"}  # ShareGPT's roles of an assistant that calls a tool
THOUGHTS = (
    "reasoning_content",
    "reasoning",
    "thinking",
)  # keys of an assistant's thoughts, the last GPT-OSS's


class Unusable(BadInput):
    """A row that is no conversation to learn from; the others may be."""


@dataclass(frozen=True)
class Conversation:
    """The turns of one row; `answers` are the positions of the assistant's turns to learn."""

    messages: list[Message]
    answers: list[int]
    tools: list[Any] = field(default_factory=list)

    def question(self, end: int | None = None) -> dict[str, Any]:
        """The turns up to `end` and the tools, as OpenAI's API takes them; by default up to the last answer.

        Of a conversation that ends with a question, that is all of it.
        """
        if end is None and self.messages[-1]["role"] == "assistant":
            end = -1
        return {"messages": for_server(self.messages[:end]), **({"tools": self.tools} if self.tools else {})}


def conversation(parts: Sequence[Any], tools: Any = None, system: str | None = None) -> Conversation:
    """Read a conversation from the values of one or more columns, in their order.

    Of several parts one may be a text, the user's turn, or as the last the assistant's.

    Only answers of the last part are learnt: those after a question that the fields `train` or `weight` do not
    exclude; a chat may begin with a greeting of the assistant. `system` is put first where there is no system turn.

    Raises Unusable for what is not a conversation.
    """
    if len(parts) > 1:
        parts = [*(_as_turns(part, "user") for part in parts[:-1]), _as_turns(parts[-1], "assistant")]
    history = [message for part in parts[:-1] for message in read_messages(part)]
    turns = _turns(parts[-1])
    messages = history + [_message(turn) for turn in turns]
    if not messages:
        raise Unusable("the conversation has no turns")
    first = 0
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        first = 1
    asked = next((place for place, message in enumerate(messages) if message["role"] == "user"), len(messages))
    places = range(first + len(history), len(messages))
    learnt = [
        place for place, turn in zip(places, turns, strict=True)
        if place > asked and messages[place]["role"] == "assistant" and _is_learnt(turn)
    ]  # fmt: skip
    return Conversation(messages, learnt, read_tools(tools))


def read_tools(value: Any) -> list[Any]:
    """The tools that a conversation may call: a list, or a text that holds it as JSON. Raises Unusable."""
    if isinstance(value, str) and value.strip():
        value = _from_json(value, "the tools are no JSON")
    if value in (None, "", [], {}):
        return []
    if not isinstance(value, list):
        raise Unusable(f"the tools are a {type(value).__name__}, not a list")
    return [_without_nulls(tool) for tool in value]


def read_calls(calls: Any) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects. Raises Unusable."""
    if not isinstance(calls, list):
        raise Unusable("tool_calls is not a list")
    return [_call(call) for call in calls]


def for_server(messages: Sequence[Message]) -> list[Message]:
    """The turns in the form of OpenAI's API, whose tool calls have an id, and arguments as JSON text."""
    return [
        {**message, "tool_calls": [_with_text(*call) for call in enumerate(message["tool_calls"])]}
        if "tool_calls" in message else message
        for message in messages
    ]  # fmt: skip


def _with_text(number: int, call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {"id": f"call_{number}", **call, "function": {**call["function"], "arguments": arguments}}


def read_messages(turns: Any) -> list[Message]:
    """Turns as data sets or requests have them, in the form that chat templates take. Raises Unusable."""
    return [_message(turn) for turn in _turns(turns)]


def read_pairs(history: Any) -> list[Message]:
    """Questions and answers as LLaMA-Factory has those before the last: [[question, answer], ...]. Raises Unusable."""
    if isinstance(history, str) and history:
        history = _from_json(history, "the history is a text, not a list")
    pairs = history or []
    if not (isinstance(pairs, list) and all(map(_is_pair, pairs))):
        raise Unusable("the history is not a list of pairs, [[question, answer], ...]")
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(roles, pair, strict=True)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _turns(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = _from_json(value, "the turns are a text, not a list of turns")
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Unusable("the turns are not a list of objects with role and content, or from and value")
    return value


def _as_turns(part: Any, role: str) -> Any:
    is_text = isinstance(part, str) and not part.lstrip().startswith("[{")  # a table's cell may hold turns as JSON
    return [{"role": role, "content": part}] if is_text else part


def _message(turn: dict[str, Any]) -> Message:
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise Unusable(f"a turn has the role {role!r}; known are {', '.join(ROLES)}")
    content = turn.get("content", turn.get("value"))
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if role in _CALLS:
        calls, content = _calls(content), None
    message: Message = {"role": ROLES[role], "content": _text(content, optional=bool(calls))}
    message |= {key: turn[key] for key in ("name", "tool_call_id") if turn.get(key) is not None}
    thoughts = next((turn[key] for key in THOUGHTS if turn.get(key)), None)
    if thoughts and message["role"] == "assistant":
        message["reasoning_content"] = _text(thoughts, optional=False)
    if calls:
        message["tool_calls"] = read_calls(calls)
    return message


def _text(content: Any, optional: bool) -> str:
    """The text of a turn, which may be a list of text parts: chat templates write these one right after the other."""
    if isinstance(content, list) and content:
        kinds = {part.get("type") if isinstance(part, dict) else type(part).__name__ for part in content}
        if kinds != {"text"}:
            raise Unusable(f"a turn has parts of the type {', '.join(map(str, kinds - {'text'}))}; only text is learnt")
        return "".join(str(part.get("text") or "") for part in content)
    if content is None and optional:
        return ""
    if isinstance(content, dict):  # of a tool's result
        return json.dumps(content, ensure_ascii=False)
    if not isinstance(content, str):
        raise Unusable(f"a turn has {'no content' if content is None else f'a {type(content).__name__} as content'}")
    return content


def _calls(content: Any) -> list[Any]:
    """Tool calls that ShareGPT has as the JSON text of one, or of several, for a turn's value."""
    found = _from_json(content, "a tool call is not JSON") if isinstance(content, str) else content
    return found if isinstance(found, list) else [found]


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call has no function with a name")
    arguments = function.get("arguments", function.get("parameters")) or {}
    if isinstance(arguments, str):
        arguments = _from_json(arguments, f"the arguments of {function['name']} are not JSON")
    else:
        arguments = _without_nulls(arguments)
    called = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **called} if call.get("id") is not None else called


def _is_learnt(turn: dict[str, Any]) -> bool:
    for key in ("train", "weight"):
        value = turn.get(key)
        if value is None:
            continue
        if value not in (0, 1):
            raise Unusable(f"a turn has {key} {value!r}; use 1 to learn it and 0 not to")
        return bool(value)
    return True


def _from_json(text: Any, problem: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise Unusable(problem) from None


def _without_nulls(value: Any) -> Any:
    """Parquet gives every object the keys of all of them, null where it has none."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
