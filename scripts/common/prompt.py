"""The one prompt template: tokenizing, evaluating and serving all build their prompts here.

A template is JSON; `{name}` stands for a column of the data set:

    {"sections": ["### Instruction\\n{instruction}", "### Context\\n{context}", "### Answer\\n"],
     "separator": "\\n\\n", "response": "{response}", "system": null, "chat": false}

A section is left out when it names columns and all of these are empty. With `chat` the joined sections
are the user's turn after `system`, and the model's own chat template does the rest (common.tokenizer).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.program import BadInput

_COLUMN = re.compile(r"\{(\w[\w .-]*)\}")  # so that a literal {"a": 1} or {} in a template stays text
_KEYS = {"sections": list, "separator": str, "response": str, "system": (str, type(None)), "chat": bool}


@dataclass(frozen=True)
class Template:
    """What a prompt and its response look like, as text with `{column}` in it."""

    sections: tuple[str, ...]
    answer: str
    separator: str = "\n\n"
    system: str | None = None
    chat: bool = False

    @classmethod
    def load(cls, source: str) -> Template:
        """Read a template from JSON text, or from the file that `source` names.

        Raises BadInput when it is neither or is not a template.
        """
        if source.lstrip().startswith("{"):
            return cls.from_json(source)
        if not os.path.isfile(source):  # noqa: PTH113  pathlib raises for a text that no path can be
            raise BadInput(f"template: {source!r} is neither a JSON object nor a file")
        return cls.from_json(Path(source).read_text(encoding="utf-8", errors="replace"))

    @classmethod
    def from_json(cls, text: str) -> Template:
        """Parse and check a template. Raises BadInput that names the key."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"template: not JSON: {error}") from error
        _check(values)
        answer = values.pop("response")
        return cls(**{**values, "sections": tuple(values["sections"]), "answer": answer})

    def to_json(self) -> str:
        """The template as JSON text, every key written out."""
        values = {"sections": self.sections, "separator": self.separator, "response": self.answer}
        return json.dumps({**values, "system": self.system, "chat": self.chat}, ensure_ascii=False, indent=1)

    def prompt_columns(self) -> set[str]:
        """The columns that the prompt names, of a chat also the system turn."""
        return {name for text in (*self.sections, self.system or "") for name in _COLUMN.findall(text)}

    def render(self, fields: Mapping[str, Any]) -> str:
        """The prompt of one row (of a chat: the user's turn). Raises BadInput for a column that is not there."""
        return self.separator.join(_fill(text, fields) for text in self.sections if _is_wanted(text, fields))

    def messages(self, fields: Mapping[str, Any]) -> list[dict[str, str]]:
        """The turns of a chat before the assistant's."""
        user = {"role": "user", "content": self.render(fields)}
        if self.system is None or not _is_wanted(self.system, fields):
            return [user]
        return [{"role": "system", "content": _fill(self.system, fields)}, user]

    def response(self, fields: Mapping[str, Any]) -> str:
        """The text that the model has to learn for this row, without the end token."""
        return _fill(self.answer, fields)


def _check(values: Any) -> None:
    if not isinstance(values, dict):
        raise BadInput("template: not a JSON object")
    for key, value in values.items():
        if key not in _KEYS:
            raise BadInput(f"template: unknown key {key!r}; the keys are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise BadInput(f"template: {key} has the wrong type ({type(value).__name__})")
    for key in ("sections", "response"):
        if not values.get(key):
            raise BadInput(f"template: {key} is missing or empty")
    if not all(isinstance(section, str) for section in values["sections"]):
        raise BadInput("template: sections must be a list of texts")
    if not _COLUMN.search(values["response"]):
        raise BadInput('template: response names no column, for example "{response}"')
    if values.get("system") is not None and not values.get("chat"):
        raise BadInput("template: system is a turn of a chat: set chat to true, or make it the first section")


def _is_wanted(text: str, fields: Mapping[str, Any]) -> bool:
    names = _COLUMN.findall(text)
    return not names or any(_value(text, name, fields).strip() for name in names)


def _fill(text: str, fields: Mapping[str, Any]) -> str:
    return _COLUMN.sub(lambda found: _value(text, found[1], fields), text)


def _value(text: str, name: str, fields: Mapping[str, Any]) -> str:
    if name not in fields:
        raise BadInput(f"the template's {text!r} names the column {name!r}; the columns are {', '.join(fields)}")
    value = fields[name]
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)):
        raise BadInput(f"the column {name!r} holds a {type(value).__name__}, not text")
    return str(value)
