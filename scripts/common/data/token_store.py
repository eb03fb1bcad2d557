"""The token ids of the examples of one split, and what becomes of those that are longer than a sequence."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from common.data.row_checks import Example
from common.data.tokenizer import Text

LONG = ("drop", "truncate", "split")  # what becomes of an example that is longer than a sequence


class TokenStore:
    """Token ids of the examples of one split, in one flat array: a million lists would take ten times as much.

    Attributes:
        lengths: tokens of each example that was seen, dropped ones too.
        truncated: how many examples lost their end.
        split: how many became several.
    """

    def __init__(self, seq_len: int, loss_on: str, long: str) -> None:
        self._seq_len = seq_len
        self._loss_on = loss_on
        self._long = long
        self._ids = array("i")
        self._learnt = bytearray()  # of each token, whether it carries loss
        self._ends = [0]
        self.lengths = array("i")
        self.dropped = self.truncated = self.split = 0

    def add(self, example: Example) -> list[Example]:
        """Keep an example as what fits into a sequence. Returns that: nothing if it is dropped."""
        length = sum(map(len, example.ids))
        self.lengths.append(length)
        fitting = [example] if length <= self._seq_len else self._shorter(example)
        for each in fitting:
            self._append(each)
        return fitting

    def _shorter(self, example: Example) -> list[Example]:
        if self._long == "split" and not example.text.pieces[0]:
            self.split += 1
            return list(windows(example, self._seq_len))
        if self._long == "truncate":
            shorter = truncated(example, self._seq_len)
            if shorter and (self._loss_on != "last" or len(shorter.ids) == len(example.ids)):
                self.truncated += 1
                return [shorter]
        self.dropped += 1
        return []

    def _append(self, example: Example) -> None:
        first = self._ends[-1]
        for number, ids in enumerate(example.ids):
            self._ids.extend(ids)
            self._learnt.extend(bytes([carries_loss(number, len(example.ids), self._loss_on)]) * len(ids))
        self._learnt[first] = False  # nothing stands before the first token to predict it
        self._ends.append(len(self._ids))

    @property
    def label_tokens(self) -> int:
        """How many tokens carry loss."""
        return self._learnt.count(True)

    @property
    def longest(self) -> int:
        """Tokens of the longest example, which tells the --seq-len that would keep them all."""
        return max(self.lengths, default=0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def length(self, index: int) -> int:
        return self._ends[index + 1] - self._ends[index]

    def ids(self, index: int) -> np.ndarray:
        return np.frombuffer(self._ids, dtype=np.int32)[self._ends[index] : self._ends[index + 1]]

    def learnt(self, index: int) -> np.ndarray:
        return np.frombuffer(self._learnt, dtype=bool)[self._ends[index] : self._ends[index + 1]]

    def statistics(self, sequences: int) -> dict[str, Any]:
        """What the split holds once it lies in that many sequences."""
        tokens = len(self._ids)
        return {
            "examples": len(self),
            "sequences": sequences,
            "tokens": tokens,
            "label_tokens": self.label_tokens,
            "dropped": self.dropped,
            "truncated": self.truncated,
            "split": self.split,
            "longest": self.longest,
            "mean_tokens": round(tokens / len(self), 2),
            "useful_share": round(tokens / (sequences * self._seq_len), 4),
        }


def carries_loss(piece: int, pieces: int, loss_on: str) -> bool:
    """Whether a piece of an example is learnt: every second one is an answer."""
    if loss_on == "all":
        return True
    return piece == pieces - 1 if loss_on == "last" else piece % 2 == 1


def truncated(example: Example, seq_len: int) -> Example | None:
    """The example up to `seq_len` tokens; None where no answer begins before.

    What is left of the last answer is learnt without the mark of its end.
    """
    ids, room = [], seq_len
    for piece in example.ids:
        if room <= 0:
            break
        ids.append(piece[:room])
        room -= len(piece)
    if len(ids) % 2:  # a question whose answer is cut off
        ids.pop()
    if not ids:
        return None
    return example._replace(ids=ids, text=example.text.up_to(len(ids), example.writer.end_mark))


def windows(example: Example, seq_len: int) -> Iterator[Example]:
    """A plain text, cut after every `seq_len` tokens; a single last one could not be predicted from anything."""
    ids = [*chain.from_iterable(example.ids)]
    for start in range(0, len(ids) - 1, seq_len):
        window = ids[start : start + seq_len]
        text = example.writer.decode(window, special=False)
        yield example._replace(ids=[[], window], text=Text(["", text], "", text))
