"""The part of OpenAI's completions protocol that the embedded server speaks, worded as vLLM words it.

Reference: https://platform.openai.com/docs/api-reference and vLLM's extension `return_token_ids`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Fields whose other values would change the answer: refused rather than ignored.
_ONLY = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
}
_DEFAULT_MAX_TOKENS = 16  # of a completion, as OpenAI's


class ApiError(Exception):
    """A request that gets an error object for an answer."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True)
class Options:
    """How to answer. `max_tokens` None is as many as the model has positions for."""

    model: str
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: list[str]
    stream: bool
    include_usage: bool
    return_token_ids: bool


@dataclass
class Answer:
    """One prompt's answer, complete."""

    prompt_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: str | None


def parse_body(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise ApiError("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise ApiError("The request body must be a JSON object")
    for name, neutral in _ONLY.items():
        if body.get(name) is not None and body[name] not in neutral:
            raise ApiError(f"{name} is not supported by this server; leave it out", name)
    return {name: value for name, value in body.items() if value is not None}


def parse_options(body: dict[str, Any], chat: bool) -> Options:
    """The options of a completion, or of a chat. Raises ApiError that names the field."""
    stop = body.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise ApiError("stop must be a text or a list of texts, none empty", "stop")
    limit = "max_completion_tokens" if chat and "max_completion_tokens" in body else "max_tokens"
    return Options(
        model=_of_type(body, "model", str, None),
        max_tokens=_number(body, limit, int, None if chat else _DEFAULT_MAX_TOKENS, 1, 2**31),
        temperature=_number(body, "temperature", float, 1.0, 0.0, 2.0),
        top_p=_number(body, "top_p", float, 1.0, 1e-9, 1.0),
        seed=_number(body, "seed", int, None, -(2**63), 2**63 - 1),
        stop=stop,
        stream=_of_type(body, "stream", bool, False),
        include_usage=bool(_of_type(body, "stream_options", dict, {}).get("include_usage")),
        return_token_ids=_of_type(body, "return_token_ids", bool, False),
    )


def parse_prompts(body: dict[str, Any]) -> list[str | list[int]]:
    """The prompts of a completion: a text, token ids, or a list of either."""
    prompt: Any = body.get("prompt")
    if isinstance(prompt, str) or _are(int, prompt):
        return [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(each, str) or _are(int, each) for each in prompt):
        return prompt
    raise ApiError("prompt must be a text, a list of token ids, or a list of these, and not empty", "prompt")


def parse_messages(body: dict[str, Any]) -> list[dict[str, str]]:
    messages: Any = body.get("messages")
    if not _are(dict, messages) or not all(_is_message(message) for message in messages):
        raise ApiError("messages must be a list of objects with role and content, both texts", "messages")
    return messages


def check_length(prompt_ids: list[int], max_tokens: int | None, max_length: int) -> int:
    """How many tokens the answer may have. Raises ApiError when prompt and answer do not fit the model."""
    room = max_length - len(prompt_ids)
    if room < (max_tokens or 1):
        raise ApiError(
            f"This model's maximum context length is {max_length} tokens. However, you requested "
            f"{len(prompt_ids) + (max_tokens or 1)} tokens ({len(prompt_ids)} in the prompt, {max_tokens or 1} in the "
            "completion). Please reduce the length of the prompt or completion.",
            "max_tokens",
        )
    return max_tokens or room


def model_list(names: Sequence[str]) -> dict[str, Any]:
    """The first name is the base model, the others are its adapters."""
    created = int(time.time())
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": created, "owned_by": "local", "parent": parent}
            for name, parent in zip(names, [None] + [names[0]] * (len(names) - 1), strict=True)
        ],
    }


class Format:
    """The shape of answers and stream chunks, of a completion or of a chat."""

    def __init__(self, options: Options, chat: bool) -> None:
        self._options, self._chat = options, chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": options.model,
        }

    def response(self, answers: list[Answer]) -> dict[str, Any]:
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        response = {**self._head, "object": kind, "choices": choices, "usage": usage(answers)}
        return response | self._chat_prompt(answers[0])

    def chunk(self, index: int, piece: Answer, first: bool) -> dict[str, Any]:
        """One event of a stream; `piece` holds what is new, its prompt_ids only matter in the first."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        choice: dict[str, Any] = {"index": index, "finish_reason": piece.finish_reason, "logprobs": None}
        if self._chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": piece.text}
        else:
            choice["text"] = piece.text
        choice |= self._token_ids(piece, with_prompt=first)
        return {**self._head, "object": kind, "choices": [choice]} | (self._chat_prompt(piece) if first else {})

    def last_chunk(self, answers: list[Answer]) -> dict[str, Any]:
        """The event that tells the usage, when stream_options ask for it."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [], "usage": usage(answers)}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": answer.text}} if self._chat else {"text": answer.text}
        choice = {"index": index, **content, "finish_reason": answer.finish_reason, "logprobs": None}
        return choice | self._token_ids(answer, with_prompt=True)

    def _token_ids(self, answer: Answer, with_prompt: bool) -> dict[str, Any]:
        if not self._options.return_token_ids:
            return {}
        prompt = {"prompt_token_ids": answer.prompt_ids} if with_prompt and not self._chat else {}
        return {"token_ids": answer.token_ids, **prompt}

    def _chat_prompt(self, answer: Answer) -> dict[str, Any]:
        """Of a chat the prompt's ids stand beside the choices."""
        return {"prompt_token_ids": answer.prompt_ids} if self._chat and self._options.return_token_ids else {}


def usage(answers: list[Answer]) -> dict[str, int]:
    prompt = sum(len(answer.prompt_ids) for answer in answers)
    completion = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(type(value) is kind for value in values)


def _is_message(message: dict[str, Any]) -> bool:
    return isinstance(message.get("role"), str) and isinstance(message.get("content"), str)


def _of_type(body: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name, default)
    if not isinstance(value, kind):
        raise ApiError(f"{name} must be a {kind.__name__}" + ("" if name in body else "; it is missing"), name)
    return value


def _number(body: dict[str, Any], name: str, kind: type, default: Any, low: float, high: float) -> Any:
    value = body.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not low <= value <= high:
        raise ApiError(f"{name} must be {'an integer' if kind is int else 'a number'} from {low} to {high}", name)
    return value
