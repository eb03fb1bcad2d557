"""What is sent of a conversation that somebody types."""

from __future__ import annotations

from common.data.template import Template
from common.serving import chat


def test_the_opening_is_the_system_message_unless_it_names_columns() -> None:
    fixed, filled = (Template(sections=("{q}",), chat=True, system=text) for text in ("Be brief.", "You know {about}."))
    assert chat.opening(fixed) == [{"role": "system", "content": "Be brief."}]
    assert chat.opening(filled) == chat.opening(fixed, "") == []
    assert chat.opening(filled, "Other.") == [{"role": "system", "content": "Other."}]


def test_a_question_is_written_as_in_training() -> None:
    template = Template(sections=("Be exact.", "Q: {q}"), separator="\n", chat=True)
    before = [{"role": "system", "content": "S"}]
    assert chat.with_question(before, "Why?", template) == [*before, {"role": "user", "content": "Be exact.\nQ: Why?"}]
