"""A model's chat template: the one way in which training, evaluation and serving write a conversation.

Needs `jinja2`; importing transformers for it would take 5 s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from common.data.special_tokens import special_tokens, tokenizer_settings
from common.program import BadInput

Messages = list[dict[str, str]]

TODAY = datetime(2024, 7, 26)  # what Llama 3's template writes where it finds no clock
_ANSWER = "answer"  # of the conversation that shows what a template writes around one


class ChatTemplate:
    """The compiled template of a model folder.

    It runs in the sandbox, with the settings and functions of transformers' apply_chat_template. Only the date is
    always the same: today's would give other tokens tomorrow.
    """

    def __init__(self, folder: Path, source: str) -> None:
        extensions = ["jinja2.ext.loopcontrols", _Generation]
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        sandbox.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}
        sandbox.filters["tojson"] = _tojson
        try:
            self._compiled = sandbox.from_string(source)
        except (jinja2.TemplateError, SyntaxError) as error:
            raise BadInput(f"{folder}: its chat template cannot be read: {error}") from error
        self._special = special_tokens(folder)
        self._has_date = "strftime_now" in source

    @classmethod
    def of(cls, folder: Path) -> ChatTemplate | None:
        """The template of a model folder, None where it has none. Raises BadInput for a broken one."""
        source = _source(folder)
        return cls(folder, source) if source else None

    def render(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """The turns as text, by default up to where the assistant begins. BadInput where the template refuses them."""
        values = {"messages": messages, "tools": None, "documents": None, **self._special}
        try:
            return self._compiled.render(add_generation_prompt=add_generation_prompt, **values)
        except Exception as error:  # a template is a program of others: whatever it raises, it refuses
            raise BadInput(f"the model's chat template refused the conversation: {error}") from error

    def answer(self, messages: Messages, content: str) -> str:
        """What follows `render(messages)` when the assistant says `content`, the end of its turn included."""
        if not self.answers_follow_prompts:
            return content + self.end_of_turn
        prompt, whole = self.render(messages), self._with_answer(messages, content)
        if not whole.startswith(prompt):
            raise BadInput("the model's chat template changes the prompt when an answer follows it")
        return whole[len(prompt) :]

    def warnings(self) -> Iterator[str]:
        """Where other programs may make other prompts of the template, a line each."""
        if self._has_date:
            yield (
                f"the chat template may write the date: here it is always {TODAY:%d %b %Y}, so that the same rows give "
                "the same tokens; a server that writes today's reads other prompts"
            )
        if not self.answers_follow_prompts:
            yield (
                "the chat template's prompt ends in text that it leaves out before an answer, such as the beginning of "
                "a thought: answers are learnt right after the prompt, as they are asked for"
            )

    @cached_property
    def end_of_turn(self) -> str:
        """What the template writes after an answer, perhaps nothing."""
        return self._with_answer(self._question, _ANSWER).rpartition(_ANSWER)[2]

    @cached_property
    def answers_follow_prompts(self) -> bool:
        """Whether an answer is written after the text of its prompt: not where that begins to think aloud."""
        return self._with_answer(self._question, _ANSWER).startswith(self.render(self._question))

    @cached_property
    def _question(self) -> Messages:
        """A conversation that the template takes: some take none without a system turn."""
        try:
            self.render(_QUESTION)
        except BadInput:
            return [{"role": "system", "content": "system"}, *_QUESTION]
        return _QUESTION

    def _with_answer(self, messages: Messages, content: str) -> str:
        return self.render([*messages, {"role": "assistant", "content": content}], add_generation_prompt=False)


_QUESTION: Messages = [{"role": "user", "content": "question"}]


class _Generation(Extension):
    """{% generation %} marks an answer for transformers' assistant masks; what is inside is written as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Any) -> str:
        return caller()


def _source(folder: Path) -> str | None:
    """The template's text: its own file, or a key of tokenizer_config.json (a text or named ones)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_bytes().decode(errors="replace")
    found = tokenizer_settings(folder).get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, (str, type(None))):
        raise BadInput(f"{folder / 'tokenizer_config.json'}: chat_template is neither a text nor named texts")
    return found


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON, with transformers' arguments: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
