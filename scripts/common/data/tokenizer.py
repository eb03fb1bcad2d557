"""A model folder's tokenizer, applied to a prompt template, without importing transformers (5 s).

Needs `tokenizers`, and `jinja2` for a chat and to know where an answer ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from common.data.special_tokens import added_tokens, all_special_tokens, special_tokens
from common.data.template import Template
from common.files import read_json
from common.program import BadInput

if TYPE_CHECKING:
    from common.data.chat_template import ChatTemplate


class PromptTokenizer:
    """Turns rows into the token ids that training, evaluating and serving agree on.

    Prompt and response are tokenized apart and joined, because a server only ever sees the prompt.

    Attributes:
        chat: the model's chat template, where the prompt template asks for one.
        end_id: the token that ends a response.
    """

    def __init__(self, folder: Path, template: Template) -> None:
        self.template = template
        self._tokenizer = load(folder)
        self.chat = chat_of(folder) if template.chat else None
        end_of_turn = _first_added(self._tokenizer, self.chat.end_of_turn) if self.chat else None
        self._closes_itself = end_of_turn is not None
        self.end_id = _eos_id(folder, self._tokenizer) if end_of_turn is None else end_of_turn

    def prompt(self, fields: Mapping[str, Any]) -> str:
        """The text of one row's prompt: of a chat, the turns as the model's chat template writes them."""
        if self.chat is None:
            return self.template.render(fields)
        return self.chat.render(self.template.messages(fields))

    def learnt(self, fields: Mapping[str, Any]) -> str:
        """The text that follows the prompt: the response, of a chat as the model's chat template writes it."""
        response = self.template.response(fields)
        return response if self.chat is None else self.chat.answer(self.template.messages(fields), response)

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts. A chat template has written the special tokens (BOS) itself, so none are added."""
        return self._encoded(prompts, add_special_tokens=self.chat is None)

    def response_ids(self, prompts: Sequence[str], learnt: Sequence[str]) -> list[list[int]]:
        """Token ids of what follows each prompt, closed by the end token: a chat template may write that itself."""
        ids = list(self._continuations(prompts, learnt) if self.chat else self._encoded(learnt, False))
        return ids if self._closes_itself else [[*one, self.end_id] for one in ids]

    def special_texts(self) -> dict[int, str]:
        """The special tokens that are read out of any text, by id."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token_id: token.content for token_id, token in added.items() if token.special}

    def _continuations(self, prompts: Sequence[str], learnt: Sequence[str]) -> Iterator[list[int]]:
        """The tokens of a whole conversation after those of its prompt.

        SentencePiece writes a space before a text of its own; but where the two grow together into one token, what
        follows is tokenized alone, as the prompt is when it is served.
        """
        wholes = self._encoded([prompt + text for prompt, text in zip(prompts, learnt, strict=True)], False)
        for prompt, whole, alone in zip(self.prompt_ids(prompts), wholes, self._encoded(learnt, False), strict=True):
            yield whole[len(prompt) :] if whole[: len(prompt)] == prompt else alone

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
    _add_tokens(folder, tokenizer)
    return tokenizer


def _add_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Have the tokens read whole that only the settings beside tokenizer.json name, as transformers does."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    try:
        added = [AddedToken(**token) for token in added_tokens(folder)]
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        path = folder / "tokenizer_config.json"
        raise BadInput(f"{path}: added_tokens_decoder does not map ids to tokens: {error}") from error
    tokenizer.add_tokens([token for token in added if token.content not in known])
    tokenizer.add_special_tokens(all_special_tokens(folder))


def chat_of(folder: Path) -> ChatTemplate:
    """The model's chat template. Raises BadInput when it has none."""
    from common.data.chat_template import ChatTemplate  # needs jinja2, which data without a chat do without

    chat = ChatTemplate.of(folder)
    if chat is None:
        raise BadInput(f"{folder}: no chat template: take an instruct model, or set chat to false in the template")
    return chat


def end_of_turn_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The token that ends an answer in the model's chat; None where it has no chat template, or one that fails."""
    from common.data.chat_template import ChatTemplate

    try:
        chat = ChatTemplate.of(folder)
        return _first_added(tokenizer, chat.end_of_turn) if chat else None
    except BadInput:
        return None  # said where a chat is asked for


def _first_added(tokenizer: Tokenizer, text: str) -> int | None:
    """The first token of a text that stands for itself, such as <|eot_id|>."""
    added, ids = tokenizer.get_added_tokens_decoder(), tokenizer.encode(text, add_special_tokens=False).ids
    return next((token_id for token_id in ids if token_id in added), None)


def _eos_id(folder: Path, tokenizer: Tokenizer) -> int:
    special, config = special_tokens(folder), read_json(folder / "config.json")
    eos_id = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else config.get("eos_token_id")
    if isinstance(eos_id, list):  # several tokens end a turn: the first is the one to learn
        eos_id = eos_id[0] if eos_id else None
    room = config.get("vocab_size")
    if not isinstance(eos_id, int) or (isinstance(room, int) and eos_id >= room):
        raise BadInput(f"{folder}: no end token: set eos_token in tokenizer_config.json to one of the vocabulary")
    return eos_id
