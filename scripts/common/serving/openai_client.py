"""A client for OpenAI-compatible servers. Standard library."""

from __future__ import annotations

import http.client
import json
import os
import time
from dataclasses import dataclass
from typing import Any

from common.program import StageFailed

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
        keys = ("messages", "tools") if chat else ("prompt",)
        body = {key: question[key] for key in keys if key in question}
        if "tools" in body:
            body["tool_choice"] = "none"  # a tool call is part of the text to compare
        body |= {"model": model, "return_token_ids": True, **options}
        status, content = self.ask("/v1/chat/completions" if chat else "/v1/completions", body)
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

    def request(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> tuple[int, bytes]:
        """Send a request; returns the status and content of the response. Raises OSError and HTTPException."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=max(timeout, _SHORTEST))
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json", **_authorization()})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _answers_for(self, model: str, deadline: float) -> bool:
        body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
        status, content = self.request("POST", "/v1/completions", body, deadline - time.monotonic())
        if 400 <= status < 500:
            raise Refused(f"the server rejects model {model}: {content[:200].decode(errors='replace')}")
        return status == 200


def _authorization() -> dict[str, str]:
    """The API key of our own servers, which they have from the same environment."""
    key = os.environ.get("VLLM_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}
