"""The client, with a server of a few lines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from http_answers import Answers

from common.program import StageFailed
from common.serving.openai_client import Client, NoAnswer, Refused


class Server(ThreadingHTTPServer):
    """Answers `status` and `content` by path; `received` are the bodies."""

    answers: dict[str, tuple[int, bytes]]
    received: list[dict[str, Any]]


class Handler(Answers, BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.server.received.append(self.read_json())
        self._answer()

    def _answer(self) -> None:
        self.answer(*self.server.answers.get(self.path, (404, b"")))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answers, server.received = {"/health": (200, b"")}, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def client_of(server: Server) -> Client:
    return Client("127.0.0.1", server.server_port, 30.0)


def is_ready(client: Client) -> bool:
    return client.is_ready(["base"], time.monotonic() + 30)


def test_a_server_is_ready_when_its_engine_answers(server: Server) -> None:
    client = client_of(server)
    server.answers["/v1/completions"] = (500, b"")
    assert not is_ready(client)
    server.answers["/v1/completions"] = (200, b"{}")
    assert is_ready(client)
    server.answers["/health"] = (503, b"")
    assert not is_ready(client)


def test_a_model_that_the_server_rejects_is_not_waited_for(server: Server) -> None:
    server.answers["/v1/completions"] = (404, b"no such model")
    with pytest.raises(Refused, match="rejects model base: no such model"):
        is_ready(client_of(server))


def test_no_server_is_not_ready_and_gives_no_answer(server: Server) -> None:
    client = Client("127.0.0.1", 9, 1.0)
    assert not is_ready(client)
    with pytest.raises(NoAnswer, match="no response from the server"):
        client.ask("/v1/completions", {})


@pytest.mark.parametrize("content", [b"", b"<html>", b"3"])
def test_a_response_that_is_no_json_object_is_no_answer(server: Server, content: bytes) -> None:
    server.answers["/x"] = (200, content)
    with pytest.raises(NoAnswer, match="the server's response to /x is not a JSON object"):
        client_of(server).ask("/x", {})


def test_a_prompt_is_completed(server: Server) -> None:
    choice = {"text": "b", "finish_reason": "stop", "token_ids": [2], "prompt_token_ids": [1]}
    server.answers["/v1/completions"] = (200, json.dumps({"choices": [choice]}).encode())
    answer = client_of(server).complete("sql", {"prompt": "a", "tools": [], "n": 3}, {"max_tokens": 5})
    assert answer == {"text": "b", "finish_reason": "stop", "token_ids": [2], "prompt_token_ids": [1]}
    assert server.received == [{"prompt": "a", "model": "sql", "return_token_ids": True, "max_tokens": 5}]


def test_messages_are_answered_without_tool_calls_being_parsed(server: Server) -> None:
    content = {"prompt_token_ids": [1], "choices": [{"message": {"content": "b"}}]}
    server.answers["/v1/chat/completions"] = (200, json.dumps(content).encode())
    answer = client_of(server).complete("sql", {"messages": [], "tools": [{}]}, {})
    assert (answer["text"], answer["token_ids"], answer["prompt_token_ids"]) == ("b", None, [1])
    assert server.received[0]["tool_choice"] == "none"


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [(400, {"error": "too long"}, "status 400: .*too long"), (200, {"choices": []}, "has no text")],
)
def test_an_error_of_the_server_is_told(server: Server, status: int, content: dict, message: str) -> None:
    server.answers["/v1/completions"] = (status, json.dumps(content).encode())
    with pytest.raises(StageFailed, match=message):
        client_of(server).complete("sql", {"prompt": "a"}, {})
