"""What ask_server.py refuses. That a server gives the answers of generate.py is in test_generate.py."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from http_answers import Answers

import ask_server
from common import program


class Handler(Answers, BaseHTTPRequestHandler):
    """Serves base and sql, which repeat their own name."""

    models = b'{"data": [{"id": "base"}, {"id": "sql"}]}'

    def do_GET(self) -> None:
        self.answer(200, self.models)

    def do_POST(self) -> None:
        body = self.read_json()
        choice = {"text": body["model"], "finish_reason": "stop", "token_ids": [1]}
        self.answer_json(200, {"choices": [choice]})


@pytest.fixture
def ask(tmp_path: Path):
    """Run the program against the server, with one question; its exit status."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')

    def ask(*flags: str, port: int | None = None) -> int:
        port = port or server.server_port
        argv = ["--port", str(port), "--prompts", str(tmp_path / "prompts.jsonl"), "--output", str(tmp_path / "out")]
        return program.main(ask_server.run, ask_server.flags(), [*argv, *flags])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ask
        server.shutdown()


@pytest.mark.parametrize(("flags", "models"), [([], ["base", "sql"]), (["--models", "sql"], ["sql"])])
def test_all_models_are_asked_or_those_that_are_named(ask, tmp_path: Path, flags: list[str], models: list[str]) -> None:
    assert ask(*flags) == 0
    [line] = map(json.loads, (tmp_path / "out" / "answers.jsonl").read_text().splitlines())
    assert {name: answer["text"] for name, answer in line["answers"].items()} == {name: name for name in models}


def test_a_model_that_is_not_served_is_refused_with_those_that_are(ask, tmp_path: Path, capsys) -> None:
    assert ask("--models", "nobody") == 2
    assert "--models nobody: the server serves base, sql" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_server_is_one_line(ask, capsys) -> None:
    assert ask(port=9) == 2
    assert "--port 9: no server answers on 127.0.0.1" in capsys.readouterr().err


def test_something_else_at_the_port_is_one_line(ask, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Handler, "models", b"<html>")
    assert ask() == 1
    assert "/v1/models did not return a list of models" in capsys.readouterr().err
