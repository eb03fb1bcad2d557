from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.template import Template
from common.program import BadInput

DOLLY = {
    "sections": ["### Instruction\n{instruction}", "### Context\n{context}", "### Answer\n"],
    "separator": "\n\n",
    "response": "{response}",
    "system": None,
    "chat": False,
}
SQL = {"sections": ["{schema}", "-- {question}", "SELECT"], "separator": "\n", "response": " {query};"}
CHAT = {"sections": ["{question}"], "response": "{answer}", "system": "Answer about {topic}.", "chat": True}


def template(values: dict) -> Template:
    return Template.from_json(json.dumps(values))


def test_dolly_with_context():
    fields = {"instruction": "Who?", "context": "Ann sings.", "response": "Ann"}
    assert template(DOLLY).render(fields) == "### Instruction\nWho?\n\n### Context\nAnn sings.\n\n### Answer\n"
    assert template(DOLLY).response(fields) == "Ann"


@pytest.mark.parametrize("context", ["", None, " \n"])
def test_dolly_leaves_out_an_empty_context(context):
    fields = {"instruction": "Who?", "context": context}
    assert template(DOLLY).render(fields) == "### Instruction\nWho?\n\n### Answer\n"


def test_text_to_sql():
    fields = {"schema": "CREATE TABLE t (a int)", "question": "all a", "query": "a FROM t"}
    assert template(SQL).render(fields) == "CREATE TABLE t (a int)\n-- all a\nSELECT"
    assert template(SQL).response(fields) == " a FROM t;"


def test_chat():
    turns = template(CHAT).messages({"question": "Why?", "topic": "rain"})
    assert turns == [{"role": "system", "content": "Answer about rain."}, {"role": "user", "content": "Why?"}]


def test_chat_leaves_out_an_empty_system_turn():
    assert [turn["role"] for turn in template(CHAT).messages({"question": "Why?", "topic": ""})] == ["user"]


def test_a_section_with_one_of_two_columns_stays():
    both = template({"sections": ["{a}/{b}"], "response": "{a}"})
    assert both.render({"a": "", "b": "x"}) == "/x"


def test_literal_braces_of_a_template_stay():
    values = {"sections": ['Reply as {"key": 1} or {}: {q}'], "response": "{q}"}
    assert template(values).render({"q": "hi"}) == 'Reply as {"key": 1} or {}: hi'


def test_column_names_with_spaces_and_numbers_as_values():
    assert template({"sections": ["{Input Text}"], "response": "{n}"}).render({"Input Text": 7.5}) == "7.5"


@given(st.text(), st.text())
def test_values_are_never_interpreted(question, schema):
    fields = {"question": question + "{schema}{0}%s\\1", "schema": schema + "{question}", "query": "{"}
    rendered = template(SQL).render(fields)
    assert rendered == f"{fields['schema']}\n-- {fields['question']}\nSELECT"


def test_an_unknown_column_is_named_with_its_section():
    with pytest.raises(BadInput, match=r"### Context.*'context'.*the columns are instruction, text"):
        template(DOLLY).render({"instruction": "Who?", "text": ""})


def test_a_column_that_is_no_text():
    with pytest.raises(BadInput, match="'instruction' holds a list"):
        template(DOLLY).render({"instruction": ["Who?"], "context": ""})


def test_json_round_trip():
    for values in (DOLLY, SQL, CHAT):
        assert Template.from_json(template(values).to_json()) == template(values)
    assert json.loads(template(DOLLY).to_json()) == DOLLY


def test_load_from_text_and_file(tmp_path):
    path = tmp_path / "template.json"
    path.write_text(json.dumps(DOLLY))
    assert Template.load(str(path)) == Template.load(path.read_text()) == template(DOLLY)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.json", "neither a JSON object nor a file"),
        ('{"sections": [', "not JSON"),
        ('{"sections": ["a"], "response": "{r}", "seperator": ""}', "unknown key 'seperator'"),
        ('{"sections": "a", "response": "{r}"}', "sections has the wrong type"),
        ('{"sections": [1], "response": "{r}"}', "list of texts"),
        ('{"sections": ["a"]}', "response is missing"),
        ('{"sections": [], "response": "{r}", "chat": true}', "a chat needs the user's turn"),
        ('{"turns": ["m"], "response": "{r}"}', "response and turns exclude each other"),
        ('{"turns": ["m"], "chat": false}', "turns are a chat"),
        ('{"turns": [1]}', "turns must be a list of texts"),
        ('{"sections": ["a"], "response": "yes"}', "response names no column"),
        ('{"sections": ["a"], "response": "{r}", "system": "s"}', "system is a turn of a chat"),
    ],
)
def test_a_bad_template_is_told_in_one_line(source, message):
    with pytest.raises(BadInput, match=message) as error:
        Template.load(source)
    assert "\n" not in str(error.value)
