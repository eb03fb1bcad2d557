"""A model's chat template: the one way in which training, evaluation and serving write a conversation.

Needs `jinja2`; importing transformers for it would take 5 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from common.files import read_json
from common.program import BadInput
from common.special_tokens import special_tokens


class ChatTemplate:
    """The compiled template of a model folder.

    It runs in the sandbox and with the settings of transformers' apply_chat_template. strftime_now is left out: a
    date in the prompt would give other tokens tomorrow. Llama 3 templates then use the one they were trained with.
    """

    def __init__(self, folder: Path, source: str) -> None:
        extensions = ["jinja2.ext.loopcontrols"]
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        sandbox.globals["raise_exception"] = _refuse
        sandbox.filters["tojson"] = _tojson
        try:
            self._compiled = sandbox.from_string(source)
        except jinja2.TemplateError as error:
            raise BadInput(f"{folder}: its chat template cannot be read: {error}") from error
        self._special = special_tokens(folder)

    @classmethod
    def of(cls, folder: Path) -> ChatTemplate | None:
        """The template of a model folder, None where it has none. Raises BadInput for a broken one."""
        source = _source(folder)
        return cls(folder, source) if source else None

    def render(self, messages: list[dict[str, str]]) -> str:
        """The turns as text, up to where the assistant begins. Raises BadInput where the template refuses them."""
        try:
            return self._compiled.render(messages=messages, add_generation_prompt=True, **self._special)
        except jinja2.TemplateError as error:
            raise BadInput(f"the model's chat template refused the conversation: {error}") from error


def _source(folder: Path) -> str | None:
    """The template's text: its own file, or a key of tokenizer_config.json (a text or named ones)."""
    path, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = read_json(settings).get("chat_template") if settings.is_file() else None
    if isinstance(found, list):
        return {entry["name"]: entry["template"] for entry in found}.get("default")
    return found


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
