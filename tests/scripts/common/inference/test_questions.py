"""Which text a row of a questions file is asked as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.data.template import Template
from common.inference.questions import Question, collect_answers, read_questions
from common.program import BadInput

OF_COLUMNS = Template(sections=("Q: {question}", "C: {context}"), answer="{answer}", separator="\n")
OF_PROMPT = Template(sections=("### User\n{prompt}", "### Answer\n"), answer="{response}", separator="\n")
OF_BOTH = Template(sections=("{prompt} {question}",), answer="{answer}")


def chat(template: Template, system: str | None = None) -> Template:
    return Template(template.sections, template.answer, template.separator, system, chat=True)


def asked(folder: Path, row: dict, template: Template | None) -> Question:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    [question] = read_questions(path, template)
    return question


@pytest.mark.parametrize(
    ("row", "template", "prompt"),
    [
        ({"prompt": "p"}, None, "p"),
        ({"prompt": "p", "question": "q"}, None, "p"),
        ({"prompt": "p"}, OF_COLUMNS, "p"),
        ({"prompt": "p", "answer": "a"}, OF_COLUMNS, "p"),
        ({"prompt": "p", "other": 1}, OF_COLUMNS, "p"),
        ({"question": "q", "context": "c"}, OF_COLUMNS, "Q: q\nC: c"),
        ({"prompt": "p", "question": "q", "context": "c"}, OF_COLUMNS, "Q: q\nC: c"),
        ({"prompt": "p"}, OF_PROMPT, "### User\np\n### Answer\n"),
        ({"prompt": "p", "response": "r"}, OF_PROMPT, "### User\np\n### Answer\n"),
        ({"prompt": "p", "question": "q"}, OF_BOTH, "p q"),
    ],
)
def test_the_template_is_used_for_every_row_that_has_one_of_its_columns(tmp_path, row, template, prompt):
    assert asked(tmp_path, row, template) == Question(row, prompt, {})
    if template:
        question = {} if prompt == "p" else {"messages": [{"role": "user", "content": prompt}]}
        assert asked(tmp_path, row, chat(template)) == Question(row, prompt, question)


@pytest.mark.parametrize("row", [{"system": "s"}, {"system": "s", "prompt": "p"}])
def test_a_system_turn_s_column_is_one_of_the_template_s(tmp_path, row):
    with pytest.raises(BadInput, match=r"rows.jsonl:1: .* names the column 'question'"):
        asked(tmp_path, row, chat(OF_COLUMNS, "{system}"))


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        ({"question": "q"}, None, "no prompt; give rows with a prompt, or a --template"),
        ({"prompt": "", "other": 1}, None, "no prompt"),
        ({"question": "q", "prompt": "p"}, OF_COLUMNS, "names the column 'context'"),
        ({"other": 1}, OF_COLUMNS, "names the column 'question'"),
        ({"prompt": "p"}, OF_BOTH, "names the column 'question'"),
        ({"prompt": "half \ud800"}, None, "not Unicode text"),
        ({"question": "half \udc00", "context": "c"}, OF_COLUMNS, "not Unicode text"),
        ({"question": "half \udc00", "context": "c"}, chat(OF_COLUMNS), "not Unicode text"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path, row, template, message):
    with pytest.raises(BadInput, match=f"rows.jsonl:1: .*{message}"):
        asked(tmp_path, row, template)


def answer(text: str) -> dict:
    return {"text": text, "finish_reason": "stop", "token_ids": [1]}


QUESTIONS = [Question({"q": text}, text, None) for text in ("a\u2028b", "\x85 한국어")]


def test_answers_are_a_line_each_for_every_reader(tmp_path):
    with collect_answers(tmp_path, QUESTIONS, ["base", "tuned"]) as answers:
        answers.add("base", [answer("x\u2029y"), answer("\ud800")])
        answers.add("tuned", [answer("x\u2029y"), answer("same")])
    text = (tmp_path / "answers.jsonl").read_text(encoding="utf-8")
    assert "한국어" in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["q"] for line in lines] == [line["prompt"] for line in lines] == ["a\u2028b", "\x85 한국어"]
    assert [line["answers"]["base"]["text"] for line in lines] == ["x\u2029y", "\ud800"]
    assert json.loads((tmp_path / "summary.json").read_text())["equal"] == {"base = tuned": 1}


def test_what_was_answered_is_kept_when_the_work_is_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt), collect_answers(tmp_path, QUESTIONS, ["base", "tuned"]) as answers:
        answers.add("base", [answer("1"), answer("2")])
        answers.add("tuned", [answer("3")])
        raise KeyboardInterrupt
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [list(line["answers"]) for line in lines] == [["base", "tuned"], ["base"]]
    assert not (tmp_path / "summary.json").exists()


def test_nothing_is_written_when_nothing_was_answered(tmp_path):
    with pytest.raises(KeyboardInterrupt), collect_answers(tmp_path / "out", QUESTIONS, ["base"]):
        raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()
