"""What looks wrong in the rows of a data set: counted while they are tokenized, and told once."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from common.data.tokenizer import PromptTokenizer, Text
from common.program import BadInput

_DECODED = 200  # rows of a split whose tokens are read back
_WORDS_FOR_NOTHING = {"nan", "NaN", "None", "null", "NULL"}  # what a missing value looks like when it was made a text


class Example(NamedTuple):
    """One example as text and token ids: the ids of its pieces, of which every second is learnt.

    Attributes:
        writer: what wrote the row as text and token ids.
    """

    fields: dict[str, Any]
    text: Text
    ids: list[list[int]]
    writer: PromptTokenizer

    @property
    def prompt_ids(self) -> list[int]:
        """What comes before the last answer."""
        return [*chain.from_iterable(self.ids[:-1])]

    @property
    def response_ids(self) -> list[int]:
        """The last answer, its end included."""
        return self.ids[-1]


class RowChecks:
    """Counts the suspicious rows of one split (`name`)."""

    def __init__(self, name: str, special: dict[int, str]) -> None:
        self._name = name
        self._special = special
        self._pattern = re.compile("|".join(map(re.escape, special.values())) or "(?!)")
        self._rows = 0
        self._found: Counter[str] = Counter()
        self._empty = 0
        self._unusable = 0
        self._first_unusable = ""
        self._divided: Counter[str] = Counter()
        self._empty_answer = ""

    def watched(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples as they are, each looked at."""
        for example in examples:
            self._rows += 1
            if not example.text.response.strip():
                self._empty += 1
                self._empty_answer = self._empty_answer or example.writer.template.answer
            self._found.update(list(dict.fromkeys(self._suspicions(example))))  # once a row
            yield example

    def leave_out(self, problem: str) -> None:
        """Count a row that is no conversation; the problem of the first is shown."""
        self._unusable += 1
        self._first_unusable = self._first_unusable or problem

    def count_examples(self, of_row: int, writer: PromptTokenizer) -> None:
        """Count a row that became several examples."""
        if of_row > 1:
            self._divided[_why_divided(writer)] += 1

    def notes(self) -> Iterator[str]:
        """What was noticed, a line each. Raises BadInput if no row can be used, or none has a response."""
        if self._unusable and not self._rows:
            raise BadInput(f"no {self._name} row can be used; the first: {self._first_unusable}")
        if self._empty == self._rows > 0:
            raise BadInput(
                f"--template: response {self._empty_answer!r} is empty in all {self._rows} {self._name} rows: "
                "name the column of the answers"
            )
        if self._unusable:
            yield f"{self._name}: {self._unusable} rows are left out; the first: {self._first_unusable}"
        for reason, count in self._divided.items():
            yield f"{self._name}: {count} conversations become one example for each answer, {reason}"
        if self._empty:
            self._found["have an empty response: the model learns to answer nothing"] = self._empty
        for what, count in self._found.items():
            yield f"{self._name}: {count} of {self._rows} rows {what}"

    def _suspicions(self, example: Example) -> Iterator[str]:
        for column, value in self._used(example):
            if value is None or value != value:
                yield f"have no value in the column {column} (null or NaN): it is left empty"
            elif isinstance(value, str):
                yield from self._of_text(column, value)
        end_id = example.writer.end_id
        end = self._special.get(end_id, "the end token")
        first, last = example.prompt_ids[:2], example.prompt_ids[-1:]
        if len(first) == 2 and first[0] == first[1] and first[0] in self._special:
            yield f"have {self._special[first[0]]} twice at the start of the prompt: the tokenizer adds one by itself"
        if last == [end_id]:
            yield f"have {end} at the end of the prompt: the tokenizer adds it, and the model has learnt to stop there"
        if any(answer.count(end_id) > 1 for answer in example.ids[1::2]):
            yield f"have {end} more than once in the answer: the end is added by itself"
        chat, conversation = example.writer.chat, example.text.conversation
        if chat and conversation and conversation.tools and not chat.takes_tools:
            yield "have tools, which the model's chat template does not write"
        if self._lacks_thoughts(example):
            yield "have thoughts (reasoning_content or thinking) that the model's chat template does not write"
        if example.text.altered:
            yield "have answers of which the chat template leaves out or changes a part"
        if self._rows <= _DECODED and not self._reads_as_written(example):
            yield "have answers whose tokens do not read as their text: is the tokenizer this model's?"

    def _lacks_thoughts(self, example: Example) -> bool:
        """Whether an answer to learn has thoughts that its text is without."""
        chat, conversation = example.writer.chat, example.text.conversation
        if chat is None or conversation is None:
            return False
        answers = (conversation.messages[place] for place in conversation.answers)
        return any(
            "reasoning_content" in answer and not chat.writes_thoughts(answer, text)
            for answer, text in zip(answers, example.text.pieces[1::2], strict=True)
        )

    def _reads_as_written(self, example: Example) -> bool:
        """Whether the tokens to learn, decoded, are the answers and the marks of their ends, and nothing else."""
        end = self._special.get(example.writer.end_id, "")
        learnt = zip(example.text.pieces[1::2], example.ids[1::2], strict=True)
        return all(
            _letters(example.writer.decode(ids)) in (_letters(text), _letters(text + end)) for text, ids in learnt
        )

    def _of_text(self, column: str, value: str) -> Iterator[str]:
        if value.strip() in _WORDS_FOR_NOTHING:
            yield f"have the text {value.strip()} in the column {column}: is it a missing value?"
        for token in sorted(set(self._pattern.findall(value))):
            yield f"have the text {token} in the column {column}: it is read as the special token"

    def _used(self, example: Example) -> Iterable[tuple[str, Any]]:
        """The values that the template takes from a row, each with its column."""
        template, fields, conversation = example.writer.template, example.fields, example.text.conversation
        if template.turns and conversation:
            return [(template.turns[-1], turn["content"]) for turn in conversation.messages]
        texts = (*template.sections, template.answer, template.system or "")
        return [(name, value) for name, value in fields.items() if any(f"{{{name}}}" in text for text in texts)]


def _why_divided(writer: PromptTokenizer) -> str:
    if writer.closes_itself:
        return "since the chat template writes earlier turns in another way than the last"
    return "since the chat template ends a turn without a special token, and the end token closes an example alone"


def _letters(text: str) -> str:
    """A text without what tokenizers write in another way: white space, and how Unicode composes a character."""
    return "".join(unicodedata.normalize("NFC", text).split())
