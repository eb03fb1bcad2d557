"""A model folder's tokenizer, applied to a prompt template, without importing transformers (5 s).

Needs `tokenizers`, and `jinja2` for a chat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from common.files import read_json
from common.program import BadInput
from common.prompt import Template
from common.special_tokens import special_tokens

if TYPE_CHECKING:
    from common.chat import ChatTemplate


class PromptTokenizer:
    """Turns rows into the token ids that training, evaluating and serving agree on.

    Prompt and response are tokenized apart and joined, because a server only ever sees the prompt.
    """

    def __init__(self, folder: Path, template: Template) -> None:
        self.template = template
        self._tokenizer = load(folder)
        self.eos_id = _eos_id(folder, self._tokenizer)
        self._chat = chat_of(folder) if template.chat else None

    def prompt(self, fields: Mapping[str, Any]) -> str:
        """The text of one row's prompt: of a chat, the turns as the model's chat template writes them."""
        if self._chat is None:
            return self.template.render(fields)
        return self._chat.render(self.template.messages(fields))

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts. A chat template has written the special tokens (BOS) itself, so none are added."""
        return self._encoded(prompts, add_special_tokens=self._chat is None)

    def response_ids(self, responses: Sequence[str]) -> list[list[int]]:
        """Token ids of responses, each closed by the end token."""
        return [[*ids, self.eos_id] for ids in self._encoded(responses, add_special_tokens=False)]

    def _encoded(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]


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


def chat_of(folder: Path) -> ChatTemplate:
    """The model's chat template. Raises BadInput when it has none."""
    from common.chat import ChatTemplate  # needs jinja2, which data without a chat do without

    chat = ChatTemplate.of(folder)
    if chat is None:
        raise BadInput(f"{folder}: no chat template: take an instruct model, or set chat to false in the template")
    return chat


def _eos_id(folder: Path, tokenizer: Tokenizer) -> int:
    special = special_tokens(folder)
    if "eos_token" in special:
        eos_id = tokenizer.token_to_id(special["eos_token"])
    else:
        eos_id = read_json(folder / "config.json").get("eos_token_id")
    if isinstance(eos_id, list):  # several tokens end a turn: the first is the one to learn
        eos_id = eos_id[0] if eos_id else None
    if eos_id is None:
        raise BadInput(f"{folder}: no end token: set eos_token in tokenizer_config.json to one of the vocabulary")
    return eos_id
