"""Rows in the shapes of well-known public data sets, with what an assistant says in them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_SUBJECTS = ("a heron", "the Loire", "SQLite", "Σίσυφος", "東京", "a “quoted” title", "5 < 6 & 7 > 6", "naïve Bayes 🙂")
_QUESTIONS = ("What is {}?", "Tell me about {}.\n\nBe brief.", "  Why {}?", "Translate to French: {}", "{}\n---\n?")
_ANSWERS = (
    "{} is older than one thinks.", "1. {}\n2. nothing else\n\n3. {}", "```python\nprint({!r})\n```", '{{"a": ["{}"]}}',
    "I do not know {}, user.\nAssistant: neither", "{}", "x" * 90 + " {}", "<b>{}</b> | **bold** \\n {{x}} %s",
)  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Call(NamedTuple):
    """An assistant's call of TOOL."""

    arguments: dict[str, Any]


class PublicRow(NamedTuple):
    """The columns of a row, and what is learned of it."""

    fields: dict[str, Any]
    said: Sequence[str | Call]


Turns = list[tuple[str, str]]  # (user's words, assistant's words)


def rows(count: int = 200, seed: int = 0) -> dict[str, list[PublicRow]]:
    """So many rows of each shape."""
    rng = random.Random(seed)
    return {name: [make(rng, number) for number in range(count)] for name, make in _SHAPES.items()}


def _turn(rng: random.Random, number: int) -> tuple[str, str]:
    subject = rng.choice(_SUBJECTS)
    return rng.choice(_QUESTIONS).format(subject), f"{rng.choice(_ANSWERS)} ({number})".format(subject, subject)


def _turns(rng: random.Random, number: int) -> Turns:
    return [_turn(rng, number) for _ in range(rng.randint(1, 4))]


def _dolly(rng: random.Random, number: int) -> PublicRow:
    question, answer = _turn(rng, number)
    context = rng.choice(["", f"Some context of {number}."])
    return PublicRow({"instruction": question, "context": context, "response": answer, "category": "open_qa"}, [answer])


def _alpaca(rng: random.Random, number: int) -> PublicRow:
    question, answer = _turn(rng, number)
    return PublicRow({"instruction": question, "input": rng.choice(["", "3, 4"]), "output": answer}, [answer])


def _alpaca_with_history(rng: random.Random, number: int) -> PublicRow:
    *history, (question, answer) = _turns(rng, number)
    fields = {"instruction": question, "input": "", "output": answer, "history": [list(pair) for pair in history]}
    return PublicRow(fields, [text for _, text in history] + [answer])


def _question_answer(rng: random.Random, number: int) -> PublicRow:
    question, answer = _turn(rng, number)
    return PublicRow({"question": question, "answer": answer, "id": number}, [answer])


def _prompt_completion(rng: random.Random, number: int) -> PublicRow:
    question, answer = _turn(rng, number)
    return PublicRow({"prompt": question, "completion": answer}, [answer])


def _prompt_completion_of_turns(rng: random.Random, number: int) -> PublicRow:
    *history, (question, answer) = _turns(rng, number)
    prompt = [*_messages(history), {"role": "user", "content": question}]
    return PublicRow({"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}, [answer])


def _messages(turns: Turns) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text}
        for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)
    ]  # fmt: skip


def _oasst(rng: random.Random, number: int) -> PublicRow:
    """As OpenAssistant's, with a system turn in some, and answers that are not to be learned."""
    turns = _turns(rng, number)
    messages = _messages(turns)
    if rng.random() < 0.3 and len(turns) > 1:
        messages[1]["weight"] = 0
    if rng.random() < 0.3:
        messages.insert(0, {"role": "system", "content": f"You are number {number}."})
    said = [turn["content"] for turn in messages if turn["role"] == "assistant" and turn.get("weight", 1)]
    return PublicRow({"messages": messages, "message_tree_id": number}, said)


def _sharegpt(rng: random.Random, number: int) -> PublicRow:
    turns = _turns(rng, number)
    conversation = [
        {"from": name, "value": text} for pair in turns for name, text in zip(("human", "gpt"), pair, strict=True)
    ]
    return PublicRow({"id": f"s{number}", "conversations": conversation}, [text for _, text in turns])


def _tool_calls(rng: random.Random, number: int) -> PublicRow:
    """As OpenAI's: arguments are a text of JSON, and a call has no content."""
    arguments, (question, answer) = {"city": rng.choice(_SUBJECTS), "days": number}, _turn(rng, number)
    function = {"name": "get_weather", "arguments": json.dumps(arguments)}
    call = {"id": "call_0001", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0001", "content": '{"celsius": 19}'},
        {"role": "assistant", "content": answer},
    ]
    return PublicRow({"messages": messages, "tools": [TOOL]}, [Call(arguments), answer])


def _tool_calls_of_sharegpt(rng: random.Random, number: int) -> PublicRow:
    """As LLaMA-Factory's: calls are turns, and tools a text of JSON."""
    arguments, (question, answer) = {"city": rng.choice(_SUBJECTS), "days": number}, _turn(rng, number)
    conversation = [
        {"from": "human", "value": question},
        {"from": "function_call", "value": json.dumps({"name": "get_weather", "arguments": arguments})},
        {"from": "observation", "value": '{"celsius": 19}'},
        {"from": "gpt", "value": answer},
    ]
    return PublicRow({"conversations": conversation, "tools": json.dumps([TOOL])}, [Call(arguments), answer])


def _text(rng: random.Random, number: int) -> PublicRow:
    text = " ".join(_turn(rng, number))
    return PublicRow({"text": text}, [text])


_SHAPES: dict[str, Callable[[random.Random, int], PublicRow]] = {
    "dolly": _dolly,
    "alpaca": _alpaca,
    "alpaca with history": _alpaca_with_history,
    "question_answer": _question_answer,
    "prompt_completion": _prompt_completion,
    "prompt_completion of turns": _prompt_completion_of_turns,
    "messages": _oasst,
    "conversations": _sharegpt,
    "messages with tool calls": _tool_calls,
    "conversations with tool calls": _tool_calls_of_sharegpt,
    "text": _text,
}


def calls(row: PublicRow) -> Iterator[Call]:
    """The calls in a row."""
    yield from (each for each in row.said if isinstance(each, Call))
