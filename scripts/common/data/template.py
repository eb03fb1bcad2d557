"""The one prompt template: tokenizing, evaluating and serving all build their prompts here.

A template is JSON; `{name}` stands for a column of the data set:

    {"sections": ["### Instruction\\n{instruction}", "### Context\\n{context}", "### Answer\\n"],
     "separator": "\\n\\n", "response": "{response}", "system": null, "chat": false}

A name is taken as it stands: `{question?}`, `{prompt (en)}`, `{a/b}`. As in Python's format strings `{{` and `}}` are
literal braces; where a text has neither, other braces may stay single, as in {"key": 1} or {}. What looks like the name
of a column and is none is refused.

A section is left out when it names columns and all of these are empty. With `chat` the joined sections
are the user's turn after `system`, and the model's own chat template does the rest (common.data.tokenizer).

Rows that hold whole conversations have no sections, but the columns of the turns, perhaps of the tools:

    {"turns": ["messages"], "tools": "tools", "system": null}
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.conversation import Conversation, Unusable, conversation, read_pairs
from common.program import BadInput

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_LITERAL = {"{{": "{", "}}": "}"}
# What a column may be called, without the marks of JSON and code; runner/plan/checks/template.py has the same rule.
_NAME = re.compile(r"""[^"':;,=<>|\\\n]*\w[^"':;,=<>|\\\n]*""")
_OPTIONAL_TEXT = (str, type(None))
_KEYS = {
    "sections": list, "separator": str, "response": str, "system": _OPTIONAL_TEXT, "chat": bool,
    "turns": list, "tools": _OPTIONAL_TEXT, "history": _OPTIONAL_TEXT,
}  # fmt: skip


@dataclass(frozen=True)
class Template:
    """What a prompt and its response look like, as text with `{column}` in it.

    With `turns` it is a conversation: the turns of these columns one after the other; those of the last are learnt.
    Without sections or turns the response alone is learnt, as plain text. `history` is a column of the questions and
    answers that came before, [[question, answer], ...], which only a chat can have.
    """

    sections: tuple[str, ...] = ()
    answer: str = ""
    separator: str = "\n\n"
    system: str | None = None
    chat: bool = False
    turns: tuple[str, ...] = ()
    tools: str | None = None
    history: str | None = None

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
        lists = {key: tuple(values.pop(key, ())) for key in ("sections", "turns")}
        return cls(**lists, answer=values.pop("response", ""), **values)

    def to_json(self) -> str:
        """The template as JSON text: every key of its kind written out."""
        if self.turns:
            values = {"turns": self.turns, "tools": self.tools, "system": self.system, "chat": True}
        else:
            values = {"sections": self.sections, "separator": self.separator, "response": self.answer}
            values |= {"system": self.system, "chat": self.chat}
            values |= {"history": self.history} if self.history else {}
        return json.dumps(values, ensure_ascii=False, indent=1)

    def names_any(self, columns: Collection[str]) -> bool:
        """Whether the prompt, of a chat also the system turn, names one of these columns."""
        if any(column in columns for column in self.turns):
            return True
        texts = (*self.sections, self.system or "")
        return any(brace[1] in columns for text in texts for brace in _BRACES.finditer(text))

    def uses(self, column: str) -> bool:
        """Whether the text of a row has this column in it."""
        return self.names_any([column]) or f"{{{column}}}" in self.answer or column in (self.tools, self.history)

    def typed(self, text: str) -> str:
        """A user's turn for a text that somebody types: the sections around it if they name one column, else itself."""
        columns = self.columns(*self.sections)
        return self.render({columns[0]: text}) if len(columns) == 1 else text

    @staticmethod
    def columns(*texts: str) -> list[str]:
        """The names of columns in these texts, each once."""
        names = [brace[1] for text in texts for brace in _BRACES.finditer(text) if brace[1]]
        return [*dict.fromkeys(name for name in names if _NAME.fullmatch(name))]

    def render(self, fields: Mapping[str, Any]) -> str:
        """The prompt of one row (of a chat: the user's turn). Raises BadInput for a column that is not there."""
        return self.separator.join(_fill(text, fields) for text in self.sections if _is_wanted(text, fields))

    def has_turns(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row is a conversation: has its turns in columns, or a history of some."""
        return bool(self.turns or (self.history and fields.get(self.history)))

    def conversation(self, fields: Mapping[str, Any]) -> Conversation:
        """The conversation of one row that `has_turns`. Raises BadInput, Unusable where it is none."""
        if not self.turns:
            return conversation([[*self.messages(fields), {"role": "assistant", "content": self.response(fields)}]])
        for column in self.turns:
            if column not in fields:
                raise Unusable(f"no column {column!r} with the turns; the columns are {', '.join(fields)}")
        tools = fields.get(self.tools) if self.tools else None
        return conversation([fields[column] for column in self.turns], tools, self.system_message(fields))

    def question(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What to ask a server of a chat in OpenAI's protocol: the turns before the last answer, and the tools."""
        if not self.turns:
            return {"messages": self.messages(fields)}
        return self.conversation(fields).question()

    def messages(self, fields: Mapping[str, Any]) -> list[dict[str, str]]:
        """The turns of a chat before the last answer. Raises Unusable for a history that is none."""
        history = read_pairs(fields.get(self.history)) if self.history else []
        turns = [*history, {"role": "user", "content": self.render(fields)}]
        system = self.system_message(fields)
        return turns if system is None else [{"role": "system", "content": system}, *turns]

    def system_message(self, fields: Mapping[str, Any]) -> str | None:
        """The system message of one row; None where its columns are empty. Raises BadInput for a column not there."""
        if self.system is None or not _is_wanted(self.system, fields):
            return None
        return _fill(self.system, fields)

    def response(self, fields: Mapping[str, Any]) -> str:
        """The text that the model has to learn for this row, without the end token."""
        if not any(isinstance(piece, Column) for piece in pieces(self.answer, fields)):
            raise BadInput(f"the template's response {self.answer!r} names none of the columns {', '.join(fields)}")
        return _fill(self.answer, fields)


def _check(values: Any) -> None:
    if not isinstance(values, dict):
        raise BadInput("template: not a JSON object")
    for key, value in values.items():
        if key not in _KEYS:
            raise BadInput(f"template: unknown key {key!r}; the keys are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise BadInput(f"template: {key} has the wrong type ({type(value).__name__})")
    for key in ("sections", "turns"):
        if not all(isinstance(text, str) for text in values.get(key, ())):
            raise BadInput(f"template: {key} must be a list of texts")
    if values.get("turns"):
        _check_turns(values)
        return
    for key in ("sections", "response"):
        if key not in values or (key == "response" and not values[key]):
            raise BadInput(f"template: {key} is missing or empty")
    if not any(_BRACES.findall(values["response"])):
        raise BadInput('template: response names no column, for example "{response}"')
    if not values["sections"] and values.get("chat"):
        raise BadInput("template: sections are empty, and a chat needs the user's turn")
    if values.get("system") is not None and not values.get("chat"):
        raise BadInput("template: system is a turn of a chat: set chat to true, or make it the first section")


def _check_turns(values: dict[str, Any]) -> None:
    for key in ("sections", "response"):
        if values.get(key):
            raise BadInput(f"template: {key} and turns exclude each other: turns hold the answers too")
    if values.setdefault("chat", True) is not True:
        raise BadInput("template: turns are a chat: leave chat out, or set it to true")


class Column(str):
    """The name of a column, among the pieces of a text."""


def pieces(text: str, columns: Collection[str]) -> list[str]:
    """The text cut at its placeholders; these are of type Column.

    Raises BadInput for a placeholder that is none of the columns, and for braces that can be read in two ways.
    """
    found, end, kinds = [], 0, set()
    for brace in _BRACES.finditer(text):
        name = brace[1]
        if name in columns:
            piece = Column(name)
        elif name and _NAME.fullmatch(name):
            raise BadInput(f"the template's {text!r} names the column {name!r}; {_advice(name, columns)}")
        else:
            piece = _LITERAL.get(brace[0], brace[0])
            kinds.add(brace[0] in _LITERAL)
        found += [text[end : brace.start()], piece]
        end = brace.end()
    if len(kinds) > 1:
        raise BadInput(f"the template's {text!r} has single braces beside {{{{ or }}}}: write each literal brace twice")
    return [*found, text[end:]]


def _advice(name: str, columns: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, columns, n=1)
    meant = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{meant}the columns are {', '.join(columns)}; the text {{{name}}} is written {{{{{name}}}}}"


def _is_wanted(text: str, fields: Mapping[str, Any]) -> bool:
    names = [piece for piece in pieces(text, fields) if isinstance(piece, Column)]
    return not names or any(_value(name, fields).strip() for name in names)


def _fill(text: str, fields: Mapping[str, Any]) -> str:
    return "".join(_value(piece, fields) if isinstance(piece, Column) else piece for piece in pieces(text, fields))


def _value(name: str, fields: Mapping[str, Any]) -> str:
    value = fields[name]
    if value is None or value != value:  # NaN, which pandas writes for no value
        return ""
    if not isinstance(value, (str, int, float)):
        raise Unusable(f"the column {name!r} holds a {type(value).__name__}, not text")
    return str(value)
