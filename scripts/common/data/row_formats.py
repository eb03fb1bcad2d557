"""Formats of rows that many data sets share, recognised by their columns. A format stands for a template.

runner/plan/checks/row_formats.py knows the same columns; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple, NoReturn

from common.data.conversation import Unusable
from common.data.template import Template
from common.program import BadInput


class Format(NamedTuple):
    """Columns of a kind of rows, and how they are written: as text, or as the user's turn of a chat."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    sections: tuple[str, ...]
    user: tuple[str, ...]
    answer: str


# The first whose required columns are all there is taken: rows of conversations often repeat their first turn.
FORMATS = {
    "messages": Format(("messages",), ("system", "tools"), (), (), ""),
    "conversations": Format(("conversations",), ("system", "tools"), (), (), ""),
    "prompt_completion": Format(
        ("prompt", "completion"), ("system", "tools"), ("{prompt}",), ("{prompt}",), "{completion}"
    ),
    "alpaca": Format(
        ("instruction", "output"),
        ("input", "history", "system"),
        ("### Instruction\n{instruction}", "### Input\n{input}", "### Response\n"),
        ("{instruction}", "{input}"),
        "{output}",
    ),
    "dolly": Format(
        ("instruction", "response"),
        ("context", "system"),
        ("### Instruction\n{instruction}", "### Context\n{context}", "### Answer\n"),
        ("{instruction}", "{context}"),
        "{response}",
    ),
    "question_answer": Format(
        ("question", "answer"),
        ("context", "system"),
        ("### Context\n{context}", "### Question\n{question}", "### Answer\n"),
        ("{context}", "{question}"),
        "{answer}",
    ),
    "text": Format(("text",), (), (), (), "{text}"),
}


# Columns that make rows of a known one something else, with what to do about them.
_NOT_ROWS = {
    ("text", "role"): "each row is one turn of a conversation; write one row for each conversation, with `messages`",
    ("title", "paragraphs"): "as in SQuAD; write one row for each question, with question, context and answer",
}


def recognise(fields: Mapping[str, Any]) -> str:
    """The format of a row by the names of its columns, of those with a value if they suffice. Raises Unusable."""
    filled = tuple(name for name, value in fields.items() if value is not None)
    return _by_columns(filled) or _by_columns(tuple(fields)) or _refuse(fields)


def named(name: str, fields: Mapping[str, Any]) -> str:
    """The name of a format, for a row that has its columns. Raises Unusable for one that has not."""
    for column in FORMATS[name].required:
        if column not in fields:
            raise Unusable(f"no column {column!r}, which rows of the format {name} have: {', '.join(fields)}")
    return name


@cache
def _by_columns(columns: tuple[str, ...]) -> str | None:
    if any(set(marks) <= set(columns) for marks in _NOT_ROWS):
        return None
    return next((name for name, kind in FORMATS.items() if set(kind.required) <= set(columns)), None)


def _refuse(columns: Collection[str]) -> NoReturn:
    found = f"the columns {', '.join(columns)} are of no known format"
    for marks, advice in _NOT_ROWS.items():
        if set(marks) <= set(columns):
            raise Unusable(f"{found}: {advice}")
    by_letters = {column.strip().lower(): column for column in columns}
    for name, kind in FORMATS.items():
        if set(kind.required) <= set(by_letters):
            there = ", ".join(repr(by_letters[column]) for column in kind.required)
            raise Unusable(f"{found}: call {there} {', '.join(kind.required)}, and they are {name}")
    known = "; ".join(f"{name}: {', '.join(kind.required)}" for name, kind in FORMATS.items())
    raise Unusable(f"{found} ({known}); write a template for them")


def holds_turns(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether such a row holds turns: TRL's prompt and completion may be lists of them too."""
    return name in ("messages", "conversations") or (
        name == "prompt_completion" and any(isinstance(fields[column], list) for column in FORMATS[name].required)
    )


def template(name: str, columns: Collection[str], turns: bool, chat: bool, system: str | None = None) -> Template:
    """How rows of a format are written: `columns` are those of all its rows, `turns` whether any `holds_turns`.

    `chat` asks for the model's chat template, without which there are no conversations; `system` is the message of
    rows that have none.

    Raises BadInput for conversations without a chat template.
    """
    kind = FORMATS[name]
    system = "{system}" if "system" in kind.optional and "system" in columns else system
    if turns:
        if not chat:
            raise BadInput(f"rows of the format {name} are conversations, and need a model with a chat template")
        return Template(turns=kind.required, tools="tools" if "tools" in columns else None, system=system, chat=True)
    chat = chat and bool(kind.user)
    absent = [f"{{{column}}}" for column in kind.optional if column not in columns]
    sections = tuple(
        text for text in (kind.user if chat else kind.sections) if not any(column in text for column in absent)
    )
    if not chat and system:
        sections, system = (system, *sections), None
    history = "history" if "history" in kind.optional and "history" in columns else None
    return Template(sections, kind.answer, "\n\n", system, chat, history=history)
