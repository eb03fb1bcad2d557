"""The part of OpenAI's completions API that the embedded server supports, with vLLM's error messages.

Reference: https://platform.openai.com/docs/api-reference, and vLLM's own parameters in
https://docs.vllm.ai/en/stable/serving/openai_compatible_server/
"""

from __future__ import annotations

import difflib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.data.conversation import Message, Unusable, read_calls
from common.inference.sampling import Sampling

_OPTIONS = {
    "model", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "seed", "stream", "stream_options",
    "return_token_ids",
}  # fmt: skip
_OWN_OPTIONS = {"completion": {"prompt"}, "chat": {"messages", "max_completion_tokens", "tools", "tool_choice"}}
# Metadata of a request: no answer depends on it.
_METADATA = {"user", "metadata", "safety_identifier", "service_tier", "prompt_cache_key", "request_id", "cache_salt"}
# Options that this server does not support, each with the values that have no effect.
_UNSUPPORTED = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "modalities": (["text"],),
    "priority": (0,),
    "store": (False,),
}
_MESSAGE = {"role", "content", "name", "tool_call_id"}
_MAX_INT = 2**31
_DEFAULT_MAX_TOKENS = 16  # of a completion, as OpenAI's
_MOST_PROMPTS = 1024
_MOST_STOPS = 16
_LONGEST_STOP = 1000  # characters
_LONGEST_MESSAGE = 500  # characters of an error, which may quote the request
_LONGEST_NAME = 64  # of an option that is compared with the known ones


class ApiError(Exception):
    """A request that is answered with an error object."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        message = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}..."
        param = param and param[:_LONGEST_NAME]
        super().__init__(message)
        self.status = status
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True)
class Options:
    """How to answer. `max_tokens` None means up to the model's maximum length."""

    model: str
    max_tokens: int | None
    sampling: Sampling
    seed: int | None
    stop: list[str]
    stream: bool
    include_usage: bool
    return_token_ids: bool


@dataclass
class Answer:
    """The answer to one prompt."""

    prompt_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: str | None


def parse_body(content: bytes, kind: str) -> dict[str, Any]:
    """The fields of a request of `kind` ("completion" or "chat") that are not null.

    Raises ApiError for an unsupported option, even where vLLM would ignore it: the answer would not be as requested.
    """
    try:
        body = json.loads(content)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError("The request body contains an unpaired surrogate, which is not valid text") from None
    except (ValueError, RecursionError):
        raise ApiError("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise ApiError("The request body must be a JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    for name, value in body.items():
        _check_known(name, value, _OPTIONS | _OWN_OPTIONS[kind])
    return body


def _check_known(name: str, value: Any, options: set[str]) -> None:
    if name in options or name in _METADATA:
        return
    if name not in _UNSUPPORTED:
        close = difflib.get_close_matches(name[:_LONGEST_NAME], options, 1)
        hint = f"did you mean {close[0]}?" if close else f"the options are {', '.join(sorted(options))}"
        raise ApiError(f"Unrecognized request argument: {name}; {hint}", name)
    if not any(type(value) is type(neutral) and value == neutral for neutral in _UNSUPPORTED[name]):
        raise ApiError(f"{name} is not supported by this server; leave it out", name)


def parse_options(body: dict[str, Any], chat: bool, vocab_size: int) -> Options:
    """The options of a completion or a chat. Raises ApiError naming the field."""
    stop = body.get("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise ApiError("stop must be a non-empty string or a list of these", "stop")
    if len(stop) > _MOST_STOPS or any(len(text) > _LONGEST_STOP for text in stop):
        raise ApiError(f"stop must be at most {_MOST_STOPS} strings of at most {_LONGEST_STOP} characters", "stop")
    limit = "max_completion_tokens" if chat and "max_completion_tokens" in body else "max_tokens"
    max_tokens = _number(body, limit, int, None if chat else _DEFAULT_MAX_TOKENS, 1, _MAX_INT)
    return Options(
        model=_of_type(body, "model", str, None),
        max_tokens=max_tokens,
        sampling=_sampling(body, max_tokens or _MAX_INT, vocab_size),
        seed=_number(body, "seed", int, None, -(2**63), 2**63 - 1),
        stop=stop,
        stream=_of_type(body, "stream", bool, False),
        include_usage=bool(_of_type(body, "stream_options", dict, {}).get("include_usage")),
        return_token_ids=_of_type(body, "return_token_ids", bool, False),
    )


def _sampling(body: dict[str, Any], max_tokens: int, vocab_size: int) -> Sampling:
    return Sampling(
        temperature=_number(body, "temperature", float, 1.0, 0.0, 2.0),
        top_k=_number(body, "top_k", int, 0, -1, _MAX_INT),
        top_p=_number(body, "top_p", float, 1.0, 1e-9, 1.0),
        min_p=_number(body, "min_p", float, 0.0, 0.0, 1.0),
        repetition_penalty=_number(body, "repetition_penalty", float, 1.0, 1e-9, 1e9),
        frequency_penalty=_number(body, "frequency_penalty", float, 0.0, -2.0, 2.0),
        presence_penalty=_number(body, "presence_penalty", float, 0.0, -2.0, 2.0),
        min_tokens=_number(body, "min_tokens", int, 0, 0, max_tokens),
        stop_token_ids=_token_ids(body, "stop_token_ids", vocab_size),
        ignore_eos=_of_type(body, "ignore_eos", bool, False),
    )


def parse_prompts(body: dict[str, Any]) -> list[str | list[int]]:
    """The prompts of a completion, given as a string, token ids, or a list of either."""
    prompt: Any = body.get("prompt")
    if isinstance(prompt, str) or _is_list_of(int, prompt):
        return [prompt]
    if isinstance(prompt, list) and len(prompt) > _MOST_PROMPTS:
        raise ApiError(f"prompt has {len(prompt)} entries; send at most {_MOST_PROMPTS} in a request", "prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(p, str) or _is_list_of(int, p) for p in prompt):
        return prompt
    raise ApiError("prompt must be a string, a list of token ids, or a list of these, and not empty", "prompt")


def parse_tools(body: dict[str, Any]) -> list[Any]:
    """The tools that the chat template shows to the model. Raises ApiError if the server should parse their calls."""
    tools, choice = _of_type(body, "tools", list, []), body.get("tool_choice", "auto")
    if choice != "none" and (tools or choice != "auto"):
        raise ApiError(
            "tool_choice must be none: this server shows tools to the model, but does not parse their calls",
            "tool_choice",
        )
    return tools


def parse_messages(body: dict[str, Any]) -> list[Message]:
    """The messages of a chat, with the content of each as one string and the arguments of tool calls as objects."""
    messages: Any = body.get("messages")
    if not _is_list_of(dict, messages):
        raise ApiError("messages must be a list of objects with role and content, and not empty", "messages")
    return [_message(f"messages[{number}]", message) for number, message in enumerate(messages)]


def _message(place: str, message: dict[str, Any]) -> Message:
    message = {name: value for name, value in message.items() if value is not None}
    calls = message.pop("tool_calls", None)
    for name in message:
        if name not in _MESSAGE:
            raise ApiError(f"{place}.{name} is not supported by this server; leave it out", "messages")
    for name in _MESSAGE - {"content"}:
        if not isinstance(message.get(name, ""), str):
            raise ApiError(f"{place}.{name} must be a string", "messages")
    if "role" not in message:
        raise ApiError(f"{place}.role is missing", "messages")
    content = message.get("content", "" if calls else None)
    read = {**message, "content": _content(f"{place}.content", content)}
    return {**read, "tool_calls": _calls(f"{place}.tool_calls", calls)} if calls else read


def _calls(place: str, calls: Any) -> list[dict[str, Any]]:
    try:
        return read_calls(calls)
    except Unusable as error:
        raise ApiError(f"{place}: {error}", "messages") from None


def _content(place: str, content: Any) -> str:
    """The content as one string; parts of type text are joined with newlines, as in vLLM."""
    if isinstance(content, str):
        return content
    if not _is_list_of(dict, content):
        raise ApiError(f"{place} must be a string or a list of text parts", "messages")
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(f'{place}: every part must be {{"type": "text", "text": ...}}', "messages")
    return "\n".join(part["text"] for part in content)


def check_token_ids(token_ids: list[int], name: str, vocab_size: int) -> list[int]:
    """Returns `token_ids`. Raises ApiError for one outside the vocabulary."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise ApiError(f"Token id {token_id} is out of vocabulary", name)
    return token_ids


def check_length(prompt_ids: list[int], max_tokens: int | None, max_length: int) -> int:
    """The maximum number of tokens of the answer. Raises ApiError if prompt and answer exceed the model's length."""
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
    """The response of /v1/models; the first name is the base model, the others are its adapters."""
    created = int(time.time())
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": created, "owned_by": "local", "parent": parent}
            for name, parent in zip(names, [None] + [names[0]] * (len(names) - 1), strict=True)
        ],
    }


class Format:
    """The format of responses and stream chunks, for completions or chats."""

    def __init__(self, options: Options, chat: bool) -> None:
        self._options, self._chat = options, chat
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": options.model,
        }

    def response(self, answers: list[Answer]) -> dict[str, Any]:
        """The complete response with one choice per answer."""
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        response = {**self._head, "object": kind, "choices": choices, "usage": usage(answers)}
        return response | self._chat_prompt(answers[0])

    def chunk(self, index: int, piece: Answer, first: bool) -> dict[str, Any]:
        """An event of a stream; `piece` contains the new text, its prompt_ids are only used in the first one."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        choice: dict[str, Any] = {"index": index, "finish_reason": piece.finish_reason, "logprobs": None}
        if self._chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": piece.text}
        else:
            choice["text"] = piece.text
        choice |= self._token_ids(piece, with_prompt=first)
        return {**self._head, "object": kind, "choices": [choice]} | (self._chat_prompt(piece) if first else {})

    def last_chunk(self, answers: list[Answer]) -> dict[str, Any]:
        """The event with the usage, for stream_options.include_usage."""
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
        """In a chat the prompt's token ids are next to the choices."""
        return {"prompt_token_ids": answer.prompt_ids} if self._chat and self._options.return_token_ids else {}


def usage(answers: list[Answer]) -> dict[str, int]:
    """The token counts of all answers."""
    prompt = sum(len(answer.prompt_ids) for answer in answers)
    completion = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _is_list_of(kind: type, values: Any) -> bool:
    """Whether `values` is a non-empty list of instances of exactly `kind`."""
    return isinstance(values, list) and bool(values) and all(type(value) is kind for value in values)


def _token_ids(body: dict[str, Any], name: str, vocab_size: int) -> frozenset[int]:
    ids: Any = body.get(name, [])
    if ids != [] and not _is_list_of(int, ids):
        raise ApiError(f"{name} must be a list of token ids", name)
    return frozenset(check_token_ids(ids, name, vocab_size))


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
