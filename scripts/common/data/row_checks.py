"""What looks wrong in the rows of a data set: counted while they are tokenized, and told once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from common import events
from common.data.tokenizer import PromptTokenizer
from common.program import BadInput

_WORDS_FOR_NOTHING = {"nan", "NaN", "None", "null", "NULL"}  # what a missing value looks like when it was made a text


class Example(NamedTuple):
    """One row as text and token ids; `response_ids` are all that is learnt, the end of the answer included."""

    fields: dict[str, Any]
    prompt: str
    prompt_ids: list[int]
    response: str
    response_ids: list[int]


class RowChecks:
    """Counts the suspicious rows of one split (`name`)."""

    def __init__(self, name: str, tokenizer: PromptTokenizer) -> None:
        self._name = name
        self._special = tokenizer.special_texts()
        self._pattern = re.compile("|".join(map(re.escape, self._special.values())) or "(?!)")
        self._template = tokenizer.template
        self._end_id = tokenizer.end_id
        self._rows = 0
        self._found: Counter[str] = Counter()
        self._empty = 0

    def watched(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples as they are, each looked at."""
        for example in examples:
            self._rows += 1
            self._empty += not example.response.strip()
            self._found.update(list(dict.fromkeys(self._suspicions(example))))  # once a row
            yield example

    def refuse_or_warn(self) -> None:
        """Raise BadInput where no row has a response; tell everything else."""
        if self._empty == self._rows > 0:
            raise BadInput(
                f"--template: response {self._template.answer!r} is empty in all {self._rows} {self._name} rows: "
                "name the column of the answers"
            )
        if self._empty:
            self._found["have an empty response: the model learns to answer nothing"] = self._empty
        for what, count in self._found.items():
            events.log(f"{self._name}: {count} of {self._rows} rows {what}", level="warning")

    def _suspicions(self, example: Example) -> Iterator[str]:
        for column, value in self._used(example.fields):
            if value is None or value != value:
                yield f"have no value in the column {column} (null or NaN): it is left empty"
            elif isinstance(value, str):
                yield from self._of_text(column, value)
        end = self._special.get(self._end_id, "the end token")
        first, last = example.prompt_ids[:2], example.prompt_ids[-1:]
        if len(first) == 2 and first[0] == first[1] and first[0] in self._special:
            yield f"have {self._special[first[0]]} twice at the start of the prompt: the tokenizer adds one by itself"
        if last == [self._end_id]:
            yield f"have {end} at the end of the prompt: the tokenizer adds it, and the model has learnt to stop there"
        if example.response_ids.count(self._end_id) > 1:
            yield f"have {end} more than once in the answer: the end is added by itself"

    def _of_text(self, column: str, value: str) -> Iterator[str]:
        if value.strip() in _WORDS_FOR_NOTHING:
            yield f"have the text {value.strip()} in the column {column}: is it a missing value?"
        for token in sorted(set(self._pattern.findall(value))):
            yield f"have the text {token} in the column {column}: it is read as the special token"

    def _used(self, fields: dict[str, Any]) -> list[tuple[str, Any]]:
        template = self._template
        texts = (*template.sections, template.answer, template.system or "")
        return [(name, value) for name, value in fields.items() if any(f"{{{name}}}" in text for text in texts)]
