"""The plan and the stage programs read a prompt template, and a condition on rows, alike."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import rows as chosen
from common.data import template as rendered
from common.program import BadInput
from runner.plan.checks import rows
from runner.plan.checks import template as prompt

# text, columns: what the text becomes where each column holds its name in capitals; None: it is refused
CASES = [
    ("{question?}", ["question?"], "QUESTION?"),
    ("{prompt (en)} {a/b}", ["prompt (en)", "a/b"], "PROMPT (EN) A/B"),
    ("{ q }", [" q "], " Q "),
    ("{ q }", ["q"], None),
    ("{a.b}{a, b}", ["a.b", "a, b"], "A.BA, B"),
    ("{질문}: {Ünïcode col}", ["질문", "Ünïcode col"], "질문: ÜNÏCODE COL"),
    ("{output}", ["output"], "OUTPUT"),
    ("{{q}}", ["q"], "{q}"),
    ("{{{q}}}", ["q"], "{Q}"),
    ("{{{{q}}}}", ["q"], "{{q}}"),
    ('Reply as {"key": 1} or {}: {q}', ["q"], 'Reply as {"key": 1} or {}: Q'),
    ('{"sql": {q}}', ["q"], '{"sql": Q}'),
    ('{{"a": {{"b": {q}}}}}', ["q"], '{"a": {"b": Q}}'),
    ('{"a": {"b": 1}}', ["q"], '{"a": {"b": 1}}'),
    ('{"a": {"b": {"c": 1}}}', ["q"], None),
    ("{typo}", ["q"], None),
    ("{question}", ["question?"], None),
    ("{0}", ["q"], None),
    ("${q} %s \\1 {q", ["q"], "$Q %s \\1 {q"),
    ("{", [], "{"),
    ("", [], ""),
]


def rendered_text(text: str, columns: list[str]) -> str | None:
    template = rendered.Template(sections=(text,), answer="{x}")
    try:
        return template.render({column: column.upper() for column in columns})
    except BadInput:
        return None


def named(text: str, columns: list[str]) -> list[str] | None:
    """The columns that the plan sees; None where it refuses the text."""
    try:
        names = prompt.names(text, columns)
    except prompt.AmbiguousBraces:
        return None
    return names if set(names) <= set(columns) else None


@pytest.mark.parametrize(("text", "columns", "expected"), CASES)
def test_what_a_template_becomes(text: str, columns: list[str], expected: str | None) -> None:
    assert rendered_text(text, columns) == expected
    assert (named(text, columns) is None) == (expected is None)


COLUMNS = st.lists(st.text('ab ?/.(한{}:"', min_size=1, max_size=4), max_size=3, unique=True)


@given(st.lists(st.sampled_from(["{", "}", "{{", "}}", "{a}", "{b ?}", "a", '"', ": 1"]), max_size=8), COLUMNS)
def test_the_plan_and_the_programs_agree_on_any_text(parts: list[str], columns: list[str]) -> None:
    text = "".join(parts)
    try:
        programs = [piece for piece in rendered.pieces(text, columns) if isinstance(piece, rendered.Column)]
    except BadInput:
        programs = None
    assert named(text, columns) == programs


@given(st.text(), st.lists(st.text(st.characters(exclude_characters="{}"), min_size=1), min_size=1, max_size=2))
def test_any_text_can_be_written_literally_and_any_column_named(text: str, columns: list[str]) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    answer = escaped + "".join(f"{{{column}}}" for column in columns)
    fields = {column: f"<{column}>" for column in columns}
    assert rendered.Template(("",), answer).response(fields) == text + "".join(f"<{column}>" for column in columns)


VALUES = [
    (True, "true", True), (True, "True", True), (True, "1", False), (True, "yes", False), (False, "false", True),
    (1, "true", False), (1, "1", True), (1, "1.0", True), (1.0, "1", True), (1.5, "1.5", True), (10, "010", False),
    (None, "null", True), (None, "None", False), (None, "", False), ("", "", True), ("null", "null", True),
    ("01234", "01234", True), ("1.10", "1.10", True), ("1.10", "1.1", False), ("True", "true", False),
    ("yes", "yes", True), (math.nan, "nan", False), ({"a": 1}, "1", False), (["a"], "a", False),
]  # fmt: skip


@pytest.mark.parametrize(("value", "wanted", "expected"), VALUES)
def test_a_condition_finds_what_json_spells(value: object, wanted: str, expected: bool) -> None:
    assert rows.matches({"a": value}, {"a": wanted}) is expected
    assert chosen._matches(chosen.Row("a:1", {"a": value}), [("a", wanted)]) is expected
