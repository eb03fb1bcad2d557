"""A client for OpenAI-compatible servers. Standard library."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common.program import BadInput, StageFailed

_SHORTEST = 0.1  # seconds: the minimum timeout of a request


class Refused(StageFailed):
    """The server is running but rejects the model: waiting will not help."""


class NoAnswer(StageFailed):
    """The connection failed, or the response is not a JSON object."""


@dataclass(frozen=True)
class Client:
    """A client for the server at host:port; `timeout` is the limit of a request in seconds."""

    host: str
    port: int
    timeout: float

    def is_ready(self, models: list[str], deadline: float) -> bool:
        """Whether the server is healthy and answers for all `models`: a healthy server may have an engine that hangs.

        `deadline` is a time of time.monotonic(). Raises Refused if the server does not know a model.
        """
        try:
            if self.request("GET", "/health", None, deadline - time.monotonic())[0] != 200:
                return False
            return all(self._answers_for(model, deadline) for model in models)
        except (OSError, http.client.HTTPException):
            return False

    def models(self) -> list[str]:
        """The model names that the server lists, the base model's first. Raises BadInput if no server answers."""
        try:
            status, content = self.request("GET", "/v1/models", None, self.timeout)
            return [entry["id"] for entry in json.loads(content)["data"]]
        except (OSError, http.client.HTTPException) as error:
            raise BadInput(f"--port {self.port}: no server answers on {self.host} ({error})") from None
        except (ValueError, KeyError, TypeError):
            raise StageFailed(f"/v1/models did not return a list of models (status {status})") from None

    def ask(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a POST request; returns the status and JSON object of the response. Raises NoAnswer."""
        try:
            status, content = self.request("POST", path, body, self.timeout)
            return status, dict(json.loads(content))
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"no response from the server ({error or type(error).__name__})") from None
        except (ValueError, TypeError):
            raise NoAnswer(f"the server's response to {path} is not a JSON object") from None

    def complete(self, model: str, question: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """The answer to the `messages` (with `tools`) or `prompt` in `question`: text, finish_reason and token ids.

        The ids are None if the server does not return them (vLLM before 0.10.2). Raises StageFailed.
        """
        chat = "messages" in question
        status, content = self.ask(*_request(model, question, {"return_token_ids": True, **options}))
        if status != 200:
            raise StageFailed(f"the server responded for {model} with status {status}: {json.dumps(content)[:300]}")
        try:
            choice = content["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
        except (KeyError, IndexError, TypeError):
            raise StageFailed(f"the server's response for {model} has no text: {json.dumps(content)[:300]}") from None
        return {
            "text": text,
            "finish_reason": choice.get("finish_reason"),
            "token_ids": choice.get("token_ids"),
            "prompt_token_ids": content.get("prompt_token_ids") or choice.get("prompt_token_ids"),
        }

    def stream(
        self, model: str, question: dict[str, Any], options: dict[str, Any]
    ) -> Generator[tuple[str, str | None], None, None]:
        """The answer as it is generated: pieces of its text, each with the finish_reason, the last one's.

        `question` is as for `complete`. Closing it early ends the request. Raises StageFailed.
        """
        path, body = _request(model, question, {"stream": True, **options})
        try:
            with self._response("POST", path, body, self.timeout) as response:
                if response.status != 200:
                    raise StageFailed(_error(response.read()))
                for event in _events(response):
                    if "error" in event:
                        raise StageFailed(_error(json.dumps(event)))
                    for choice in event["choices"]:  # none in an event with the usage
                        text = choice["delta"].get("content") if "delta" in choice else choice["text"]
                        yield text or "", choice.get("finish_reason")
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"no response from the server ({error or type(error).__name__})") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise NoAnswer("the server's response is not a stream of completions") from None

    def request(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> tuple[int, bytes]:
        """Send a request; returns the status and content of the response. Raises OSError and HTTPException."""
        with self._response(method, path, body, timeout) as response:
            return response.status, response.read()

    @contextmanager
    def _response(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=max(timeout, _SHORTEST))
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json", **_authorization()})
            yield connection.getresponse()
        finally:
            connection.close()

    def _answers_for(self, model: str, deadline: float) -> bool:
        body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
        status, content = self.request("POST", "/v1/completions", body, deadline - time.monotonic())
        if 400 <= status < 500:
            raise Refused(f"the server rejects model {model}: {content[:200].decode(errors='replace')}")
        return status == 200


def _request(model: str, question: dict[str, Any], options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path and the body of the request that asks a model the `messages` (with `tools`) or `prompt`."""
    chat = "messages" in question
    body = {key: question[key] for key in (("messages", "tools") if chat else ("prompt",)) if key in question}
    if "tools" in body:
        body["tool_choice"] = "none"  # a tool call is part of the text to compare
    return "/v1/chat/completions" if chat else "/v1/completions", {**body, "model": model, **options}


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The objects of server-sent events, up to the one that ends the stream."""
    for line in response:
        field, _, value = line.partition(b":")
        if field != b"data":  # a comment, or the blank line after an event
            continue
        if value.strip() == b"[DONE]":
            return
        yield dict(json.loads(value))
    raise http.client.IncompleteRead(b"")


def _error(content: bytes | str) -> str:
    """The message of an error object; of anything else its beginning."""
    try:
        error = json.loads(content)
        return str(error.get("error", error)["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(content[:300])


def _authorization() -> dict[str, str]:
    """The API key of our own servers, which they have from the same environment."""
    key = os.environ.get("VLLM_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}
