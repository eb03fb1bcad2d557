"""The format of rows by their columns, by the rule of scripts/common/data/row_formats.py, which writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from runner.compose.schema import Template

# The first whose columns are all there is the format; a test compares this with the stage program's table.
REQUIRED = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "dolly": ("instruction", "response"),
    "question_answer": ("question", "answer"),
    "text": ("text",),
}


# Columns that make rows of a known one something else, with what to do about them.
_NOT_ROWS = {
    ("text", "role"): "each row is one turn of a conversation; write one row for each conversation, with `messages`",
    ("title", "paragraphs"): "as in SQuAD; write one row for each question, with question, context and answer",
}


class UnknownFormat(ValueError):
    """Columns of no known format. The message is one line that says what to do."""


def recognise(fields: Mapping[str, Any]) -> str:
    """The format of a row by its columns, of those with a value if they suffice. Raises UnknownFormat.

    >>> recognise({"instruction": "a", "input": "b", "output": "c", "messages": None})
    'alpaca'
    """
    filled = [name for name, value in fields.items() if value is not None]
    found = _by_columns(filled) or _by_columns(list(fields))
    if found is None:
        raise UnknownFormat(f"the columns {', '.join(fields)} are of no known format{_advice(fields)}")
    return found


def _by_columns(columns: Collection[str]) -> str | None:
    if any(set(marks) <= set(columns) for marks in _NOT_ROWS):
        return None
    return next((name for name, required in REQUIRED.items() if set(required) <= set(columns)), None)


def _advice(columns: Collection[str]) -> str:
    for marks, advice in _NOT_ROWS.items():
        if set(marks) <= set(columns):
            return f": {advice}"
    by_letters = {column.strip().lower(): column for column in columns}
    for name, required in REQUIRED.items():
        if set(required) <= set(by_letters):
            there = ", ".join(repr(by_letters[column]) for column in required)
            return f": call {there} {', '.join(required)}, and they are {name}"
    known = "; ".join(", ".join(required) for required in REQUIRED.values())
    return f" ({known}); write dataset.template.sections and dataset.template.response for them"


def is_written(template: Template) -> bool:
    """Whether the recipe writes a template of its own, so that no format is asked for."""
    return bool(template.sections or template.turns or template.response)
