"""Formats of rows that many data sets share, recognised by their columns. A format stands for a template.

runner/plan/checks/row_formats.py knows the same columns; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

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
        ("input", "system"),
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


def recognise(columns: Collection[str]) -> str:
    """The format of rows with these columns. Raises BadInput when it is none."""
    for name, kind in FORMATS.items():
        if set(kind.required) <= set(columns):
            return name
    known = "; ".join(f"{name}: {', '.join(kind.required)}" for name, kind in FORMATS.items())
    raise BadInput(f"the columns {', '.join(columns)} are none of a known format ({known}); write a template for them")


def is_conversation(name: str, fields: Mapping[str, Any]) -> bool:
    """Whether such a row holds turns: TRL's prompt and completion may be lists of them too."""
    return name in ("messages", "conversations") or (
        name == "prompt_completion" and isinstance(fields.get("prompt"), list)
    )


def template(
    name: str, fields: Mapping[str, Any], columns: Collection[str], chat: bool, system: str | None = None
) -> Template:
    """How rows of a format are written: `fields` are those of one row, `columns` those of all.

    `chat` asks for the model's chat template, without which there are no conversations; `system` is the message of
    rows that have none.

    Raises BadInput for a required column that is not there, and for conversations without a chat template.
    """
    kind = FORMATS[name]
    for column in kind.required:
        if column not in columns:
            raise BadInput(f"no column {column!r}, which rows of the format {name} have: {', '.join(columns)}")
    system = "{system}" if "system" in kind.optional and "system" in columns else system
    if is_conversation(name, fields):
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
    return Template(sections, kind.answer, "\n\n", system, chat)
