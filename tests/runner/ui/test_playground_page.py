"""The playground asks a real server on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.compose.schema import Template
from runner.ui import playground_page
from tests.runner.serving_run import many_models, serving
from tests.runner.ui.served import Browser, playground_form, texts_by_model

ANSWERS = "/api/playground/answers"


def test_without_a_server_the_page_says_how_to_start_one(browser: Browser) -> None:
    assert "runner serve RUN --detach" in browser.get("/playground").text


def test_the_form_has_the_columns_of_the_training_data(browser: Browser, tmp_path: Path) -> None:
    with many_models() as server, serving(tmp_path, server.server_port) as run:
        shown = playground_form(browser.get("/playground").text)
    assert shown == {
        "server": run.name, "base": "base", "models": ["base", "sql"], "chat": False,
        "columns": ["context", "question"], "tables": ["rows"], "has_examples": False, "max_tokens": 96,
    }  # fmt: skip


def test_all_models_answer_line_by_line(browser: Browser, tmp_path: Path) -> None:
    fields = {"context": "CREATE TABLE t (a)", "question": "Why?", "rows": ""}
    question = {"models": ["base", "sql"], "fields": fields}
    with many_models() as server, serving(tmp_path, server.server_port) as run:
        answer = browser.post(ANSWERS, {"server": run.name, "question": question, "max_tokens": 9})
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[0] == {"prompt": "CREATE TABLE t (a)\n-- Why?\n"}
    assert texts_by_model(lines, ["base", "sql"]) == {"base": "SELECT 'base'", "sql": "SELECT 'sql'"}
    assert [line["result"]["rows"] for line in lines if line.get("model") == "sql" and "result" in line] == [[["sql"]]]
    assert [body["max_tokens"] for body in server.received] == [9, 9]


def test_what_the_program_refuses_is_the_last_line(browser: Browser, tmp_path: Path) -> None:
    with many_models() as server, serving(tmp_path, server.server_port) as run:
        answer = browser.post(ANSWERS, {"server": run.name, "question": {"models": ["none"]}, "max_tokens": 9})
    assert "give either the fields of a row, or a text" in json.loads(answer.body.splitlines()[-1])["error"]


@pytest.mark.parametrize("longest", [0, "9", 10**9, None])
def test_a_length_that_is_none_is_refused(browser: Browser, longest: object) -> None:
    answer = browser.post(ANSWERS, {"server": "any", "question": {}, "max_tokens": longest})
    assert answer.status == 400 and "number of tokens" in answer.json()["error"]


def test_a_run_that_does_not_serve_is_named(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, 8000, ready=False) as run:
        answer = browser.post(ANSWERS, {"server": run.name, "question": {}, "max_tokens": 9})
    assert answer.status == 400 and run.name in answer.json()["error"]
    assert browser.get("/api/playground/example?server=none").status == 404


def test_turns_are_a_chat_and_several_columns_a_form() -> None:
    is_chat = playground_page._is_chat
    assert is_chat(Template(turns=["messages"], chat=True))
    assert is_chat(Template(sections=["Q: {question}"], chat=True))
    assert not is_chat(Template(sections=["Q: {question}"], chat=False))
    assert not is_chat(Template(sections=["{a}", "{b}"], chat=True))
    assert not is_chat(Template(sections=["{a}"], chat=True, system="About {topic}."))
