"""A model folder's tokenizer, applied to a prompt template, without importing transformers (5 s).

Needs `tokenizers`, and `jinja2` for a chat and to know where an answer ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from common.data.conversation import Conversation, Unusable
from common.data.special_tokens import added_tokens, all_special_tokens, special_tokens
from common.data.template import Template
from common.files import read_json
from common.program import BadInput

if TYPE_CHECKING:
    from common.data.chat_template import ChatTemplate


class Text(NamedTuple):
    """One example as text.

    Attributes:
        pieces: the whole text, cut before and after each answer: every second piece is learnt.
        prompt: what comes before the last answer.
        response: the words of the last answer; of a call of tools, what the chat template writes.
        conversation: of a chat, its turns; `answers` are those of this example.
        altered: whether the chat template wrote other words than the answers'.
    """

    pieces: list[str]
    prompt: str
    response: str
    conversation: Conversation | None = None
    altered: bool = False

    @property
    def question(self) -> dict[str, Any]:
        """Of a chat, the messages and tools to ask a server for the last answer, in OpenAI's protocol."""
        return self.conversation.question(self.conversation.answers[-1]) if self.conversation else {}

    def up_to(self, count: int, end_mark: str) -> Text:
        """The text of the first `count` pieces, the last of which is an answer; `end_mark` may end it."""
        if count == len(self.pieces):
            return self
        pieces, conversation = self.pieces[:count], self.conversation
        if conversation:
            conversation = replace(conversation, answers=conversation.answers[: count // 2])
        response = pieces[-1].removesuffix(end_mark)
        return self._replace(pieces=pieces, prompt="".join(pieces[:-1]), response=response, conversation=conversation)


class PromptTokenizer:
    """Turns rows into the token ids that training, evaluating and serving agree on.

    Prompt and response are tokenized apart and joined, because a server only ever sees the prompt.

    Attributes:
        chat: the model's chat template, where the prompt template asks for one.
        end_id: the token that ends a response.
        closes_itself: whether the chat template writes that token; where its end of turn is none, it is added.
    """

    def __init__(self, folder: Path, template: Template) -> None:
        self.template = template
        self._tokenizer = load(folder)
        self.chat = chat_of(folder) if template.chat else None
        end_of_turn = _first_added(self._tokenizer, self.chat.end_of_turn) if self.chat else None
        self.closes_itself = end_of_turn is not None
        self.end_id = _eos_id(folder, self._tokenizer) if end_of_turn is None else end_of_turn
        if self.chat and end_of_turn is not None:
            self.chat.end_mark = _up_to(str(self._tokenizer.id_to_token(end_of_turn)), self.chat.end_of_turn)

    def texts(self, fields: Mapping[str, Any]) -> list[Text]:
        """One row as text, usually one example: where no text has all answers as they are asked for, one an answer.

        Raises BadInput, Unusable for a row that is no conversation.
        """
        if self.template.has_turns(fields):
            if self.chat is None:
                raise Unusable("a history needs a model with a chat template")
            conversation = self.template.conversation(fields)
            try:
                return self._of_turns(conversation)
            except BadInput as error:  # the template takes no such conversation, perhaps others
                raise Unusable(str(error)) from error
        response = self.template.response(fields)
        if self.chat is None:
            prompt = self.template.render(fields)
            return [Text([prompt, response], prompt, response)]
        messages, answer = self.template.messages(fields), {"role": "assistant", "content": response}
        prompt, learnt = self.chat.exchange(messages, answer)
        conversation = Conversation([*messages, answer], [len(messages)])
        return [Text([prompt, learnt], prompt, response, conversation, not self.chat.writes(answer, prompt, learnt))]

    def ids(self, texts: Sequence[Text]) -> list[list[list[int]]]:
        """Token ids of the pieces of each text, the mark at the end of an answer included."""
        if self.chat is None:
            prompts, responses = ([text.pieces[index] for text in texts] for index in (0, 1))
            ids = zip(self.prompt_ids(prompts), self._encoded(responses, False), strict=True)
        else:
            ids = self._pieces([text.pieces for text in texts])
        if self.closes_itself:
            return [list(pieces) for pieces in ids]
        return [[prompt, [*response, self.end_id]] for prompt, response in ids]

    def _of_turns(self, conversation: Conversation) -> list[Text]:
        chat, answers = self._chat(), conversation.answers
        if not answers:
            raise Unusable("no turn of the assistant is to be learnt")
        pieces = chat.cut(conversation) if self.closes_itself else None
        if pieces is not None:
            return [self._text(conversation, pieces)]
        messages, tools = conversation.messages, conversation.tools
        return [
            self._text(
                replace(conversation, answers=[place]), [*chat.exchange(messages[:place], messages[place], tools)]
            )
            for place in answers
        ]

    def _text(self, conversation: Conversation, pieces: list[str]) -> Text:
        chat, altered = self._chat(), False
        answers = [conversation.messages[place] for place in conversation.answers]
        for answer, prompt, text in zip(answers, pieces[::2], pieces[1::2], strict=True):
            if not chat.writes(answer, prompt, text):
                if answer.get("tool_calls"):
                    raise Unusable("the model's chat template does not write tool calls")
                altered = True
        called = answers[-1].get("tool_calls")
        response = pieces[-1].removesuffix(chat.end_mark) if called else answers[-1]["content"]
        return Text(pieces, "".join(pieces[:-1]), response, conversation, altered)

    def _chat(self) -> ChatTemplate:
        assert self.chat is not None, "a conversation needs a chat template"
        return self.chat

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts. A chat template has written the special tokens (BOS) itself, so none are added."""
        return self._encoded(prompts, add_special_tokens=self.chat is None)

    def response_ids(self, prompts: Sequence[str], learnt: Sequence[str]) -> list[list[int]]:
        """Token ids of what follows each prompt, closed by the end token: a chat template may write that itself."""
        texts = [Text([prompt, text], prompt, text) for prompt, text in zip(prompts, learnt, strict=True)]
        return [pieces[1] for pieces in self.ids(texts)]

    @property
    def end_mark(self) -> str:
        """What a chat template ends an answer with."""
        return self.chat.end_mark if self.chat else ""

    def decode(self, ids: Sequence[int], special: bool = True) -> str:
        """The text of tokens, by default special ones included."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=not special)

    def special_texts(self) -> dict[int, str]:
        """The special tokens that are read out of any text, by id."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token_id: token.content for token_id, token in added.items() if token.special}

    def _pieces(self, texts: Sequence[Sequence[str]]) -> Iterator[list[list[int]]]:
        """The tokens of each text, cut between its pieces.

        SentencePiece writes a space before a text of its own, so the whole is tokenized; but where two pieces grow
        together into one token, each is tokenized alone, as a prompt is when it is served.
        """
        wholes = self._encoded(["".join(pieces) for pieces in texts], False)
        alone = iter(self._encoded([piece for pieces in texts for piece in pieces], False))
        for pieces, whole in zip(texts, wholes, strict=True):
            apart = [next(alone) for _ in pieces]
            yield apart if list(chain.from_iterable(apart)) == whole else self._cut(pieces, whole) or apart

    def _cut(self, pieces: Sequence[str], whole: list[int]) -> list[list[int]] | None:
        """The tokens of the whole, cut where the texts up to each piece end; None where a token spans such a place."""
        starts = self._encoded(list(accumulate(pieces[:-1])), False)
        if any(whole[: len(start)] != start for start in starts):
            return None
        ends = [0, *map(len, starts), len(whole)]
        return [whole[start:end] for start, end in pairwise(ends)]

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


def has_chat_template(folder: Path) -> bool:
    """Whether the model is one for chats. Raises BadInput for a broken template."""
    from common.data.chat_template import ChatTemplate

    return ChatTemplate.of(folder) is not None


def end_of_turn_id(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The token that ends an answer in the model's chat; None where it has no chat template, or one that fails.

    Raises Unbounded where the template takes too much time or memory.
    """
    from common.data.chat_rehearsal import Unbounded
    from common.data.chat_template import ChatTemplate

    try:
        chat = ChatTemplate.of(folder)
        return _first_added(tokenizer, chat.end_of_turn) if chat else None
    except Unbounded:  # other programs that are given the model would render it
        raise
    except BadInput:
        return None  # said where a chat is asked for


def _first_added(tokenizer: Tokenizer, text: str) -> int | None:
    """The first token of a text that stands for itself, such as <|eot_id|>."""
    added, ids = tokenizer.get_added_tokens_decoder(), tokenizer.encode(text, add_special_tokens=False).ids
    return next((token_id for token_id in ids if token_id in added), None)


def _up_to(mark: str, text: str) -> str:
    start, mark, _ = text.partition(mark)
    return start + mark


def _eos_id(folder: Path, tokenizer: Tokenizer) -> int:
    special, config = special_tokens(folder), read_json(folder / "config.json")
    eos_id = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else config.get("eos_token_id")
    if isinstance(eos_id, list):  # several tokens end a turn: the first is the one to learn
        eos_id = eos_id[0] if eos_id else None
    room = config.get("vocab_size")
    if not isinstance(eos_id, int) or (isinstance(room, int) and eos_id >= room):
        raise BadInput(f"{folder}: no end token: set eos_token in tokenizer_config.json to one of the vocabulary")
    return eos_id
