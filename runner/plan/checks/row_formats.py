"""The format of rows by their columns, by the rule of scripts/common/data/row_formats.py, which writes them."""

from __future__ import annotations

from collections.abc import Collection

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


def recognise(columns: Collection[str]) -> str | None:
    """The format of rows with these columns, None for another one.

    >>> recognise(["instruction", "input", "output"])
    'alpaca'
    """
    return next((name for name, required in REQUIRED.items() if set(required) <= set(columns)), None)


def is_written(template: Template) -> bool:
    """Whether the recipe writes a template of its own, so that no format is asked for."""
    return bool(template.sections or template.turns or template.response)
