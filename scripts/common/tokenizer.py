"""A model folder's tokenizer, applied to a prompt template, without importing transformers (5 s).

Needs `tokenizers`, and `jinja2` for a chat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokenizers import Tokenizer

from common.files import read_json
from common.program import BadInput
from common.prompt import Template

if TYPE_CHECKING:
    import jinja2


class PromptTokenizer:
    """Turns rows into the token ids that training, evaluating and serving agree on.

    Prompt and response are tokenized apart and joined, because a server only ever sees the prompt.
    """

    def __init__(self, folder: Path, template: Template) -> None:
        self.template = template
        self._tokenizer = load(folder)
        self._special = _special_tokens(folder)
        self.eos_id = _eos_id(folder, self._tokenizer, self._special)
        self._chat = _compiled(folder) if template.chat else None

    def prompt(self, fields: Mapping[str, Any]) -> str:
        """The text of one row's prompt: of a chat, the turns as the model's chat template writes them."""
        if self._chat is None:
            return self.template.render(fields)
        return self._rendered(self._chat, self.template.messages(fields))

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts. A chat template has written the special tokens (BOS) itself, so none are added."""
        return self._encoded(prompts, add_special_tokens=self._chat is None)

    def response_ids(self, responses: Sequence[str]) -> list[list[int]]:
        """Token ids of responses, each closed by the end token."""
        return [[*ids, self.eos_id] for ids in self._encoded(responses, add_special_tokens=False)]

    def _encoded(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def _rendered(self, chat: jinja2.Template, messages: list[dict[str, str]]) -> str:
        import jinja2

        try:
            return chat.render(messages=messages, add_generation_prompt=True, **self._special)
        except jinja2.TemplateError as error:
            raise BadInput(f"the model's chat template refused the conversation: {error}") from error


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, with truncation and padding off. Raises BadInput when it is broken."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadInput(f"{folder}: no tokenizer.json; save it with transformers' AutoTokenizer (use_fast=True)")
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path}: truncated or not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, ... of tokenizer_config.json, given as text or as {"content": text}."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    named = {key: value for key, value in settings.items() if key.endswith("_token")}
    texts = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    return {key: value for key, value in texts.items() if isinstance(value, str)}


def _eos_id(folder: Path, tokenizer: Tokenizer, special: dict[str, str]) -> int:
    if "eos_token" in special:
        eos_id = tokenizer.token_to_id(special["eos_token"])
    else:
        eos_id = read_json(folder / "config.json").get("eos_token_id")
    if isinstance(eos_id, list):  # several tokens end a turn: the first is the one to learn
        eos_id = eos_id[0] if eos_id else None
    if eos_id is None:
        raise BadInput(f"{folder}: no end token: set eos_token in tokenizer_config.json to one of the vocabulary")
    return eos_id


def _compiled(folder: Path) -> jinja2.Template:
    """The chat template, in the sandbox and with the settings of transformers' apply_chat_template.

    strftime_now is left out: a date in the prompt would give other tokens tomorrow. Llama 3 templates
    then use the date that they were trained with.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    extensions = ["jinja2.ext.loopcontrols"]
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    sandbox.globals["raise_exception"] = _refuse
    sandbox.filters["tojson"] = _tojson
    try:
        return sandbox.from_string(_chat_template(folder))
    except jinja2.TemplateError as error:
        raise BadInput(f"{folder}: its chat template cannot be read: {error}") from error


def _chat_template(folder: Path) -> str:
    """The source of the chat template: its own file, or a key of tokenizer_config.json (a text or named ones)."""
    path, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = read_json(settings).get("chat_template") if settings.is_file() else None
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    if not found:
        raise BadInput(f"{folder}: no chat template: take an instruct model, or set chat to false in the template")
    return found


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
