"""What the models of a server answer side by side, line by line."""

from __future__ import annotations

import io
import json
import threading

import pytest

import stream_answers
from common import program
from tests.runner.serving_run import ManyModels, many_models

TEMPLATE = {"sections": ["{context}", "Q: {question}"], "separator": "\n", "response": "{answer}"}
CHAT = {"turns": ["messages"], "system": "Be brief.", "chat": True}
TABLES = {"context": "CREATE TABLE t (a INTEGER)", "rows": "INSERT INTO t VALUES (1), (NULL)", "question": "Why?"}


@pytest.fixture
def server():
    with many_models() as server:
        yield server


@pytest.fixture
def said(server: ManyModels, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run the program with a question; its lines. It has to end well, or with status 2 and a `problem`."""

    def said(question: object, *flags: str, problem: str = "") -> list[dict]:
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(question)))
        argv = ["--port", str(server.server_port), *flags]
        status = program.main(stream_answers.run, stream_answers.flags(), argv)
        written = capfd.readouterr()
        assert (status, problem in written.err) == (2 if problem else 0, True)
        return [json.loads(line) for line in written.out.splitlines()]

    return said


def of(lines: list[dict], model: str | None) -> list[dict]:
    return [
        {key: value for key, value in line.items() if key != "model"} for line in lines if line.get("model") == model
    ]


def test_every_model_answers_the_row_as_it_was_trained(said, server: ManyModels) -> None:
    question = {"models": ["base", "sql"], "fields": TABLES}
    lines = said(question, "--template", json.dumps(TEMPLATE), "--max-tokens", "7")
    assert lines[0] == {"prompt": "CREATE TABLE t (a INTEGER)\nQ: Why?"}
    for model in ("base", "sql"):
        assert of(lines, model) == [{"text": "SELECT "}, {"text": f"'{model}'"}, {"finish_reason": "stop"}]
    bodies = [(body["prompt"], body["max_tokens"], body["temperature"], body["stream"]) for body in server.received]
    assert bodies == [(lines[0]["prompt"], 7, 0.0, True)] * 2


def test_sql_is_executed_on_the_tables_of_the_row(said) -> None:
    question = {"models": ["sql"], "fields": TABLES, "reference": "SELECT a FROM t"}
    flags = ("--template", json.dumps(TEMPLATE), "--sql-schema", "context", "--sql-rows", "rows")
    lines = said(question, *flags)
    [expected] = [line["result"] for line in lines if "result" in line and line["model"] is None]
    assert expected == {"columns": ["a"], "rows": [["1"], [None]], "count": 2, "invented": False}
    assert of(lines, "sql")[-1]["result"]["rows"] == [["sql"]]


def test_each_model_continues_its_own_conversation(said, server: ManyModels) -> None:
    turns = {
        model: [{"role": "user", "content": "1"}, {"role": "assistant", "content": model}] for model in ("base", "sql")
    }
    said({"models": ["base", "sql"], "text": "2", "turns": turns}, "--template", json.dumps(CHAT))
    system, last = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2"}
    asked = {body["model"]: body["messages"] for body in server.received}
    assert asked == {model: [system, *turns[model], last] for model in turns}


def test_a_system_message_of_the_turns_stays(said, server: ManyModels) -> None:
    turns = [{"role": "system", "content": "Shout."}]
    said({"models": ["sql"], "text": "Hi", "turns": {"sql": turns}}, "--template", json.dumps(CHAT))
    assert server.received[0]["messages"] == [*turns, {"role": "user", "content": "Hi"}]


def test_pieces_come_before_the_answer_has_ended(said, server: ManyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    first = threading.Event()
    write = stream_answers.Output.write

    def heard(self: stream_answers.Output, line: dict) -> None:
        write(self, line)
        if line.get("text") == "SELECT ":
            first.set()

    monkeypatch.setattr(stream_answers.Output, "write", heard)
    threading.Thread(target=lambda: first.wait(60) and server.released.set(), daemon=True).start()
    assert of(said({"models": ["sql"], "fields": {"prompt": "wait"}}), "sql")[-1] == {"finish_reason": "stop"}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ([], "not an object"),
        ({"models": ["sql"], "fields": {}, "more": 1}, "not an object"),
        ({"models": "sql", "fields": {}}, "models has the wrong type"),
        ({"models": [], "fields": {}}, "models are missing"),
        ({"models": ["sql"]}, "either the fields of a row, or a text"),
        ({"models": ["none"], "text": "a"}, "none: no such model; the server serves base, sql"),
        ({"models": ["sql"], "fields": {"a": "b"}}, "no prompt"),
        ({"models": ["sql"], "text": "a", "turns": {"sql": "b"}}, "turns of sql are no list"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_refused(said, question: object, message: str) -> None:
    assert said(question, problem=message) == []


def test_a_model_of_plain_prompts_has_no_conversation(said) -> None:
    question = {"models": ["sql"], "text": "a"}
    assert said(question, "--template", json.dumps(TEMPLATE), problem="trained on plain prompts") == []
