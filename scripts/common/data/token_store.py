"""The token ids of the examples of one split, and what becomes of those that are longer than a sequence."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from common.data.row_checks import Example
from common.data.tokenizer import Text

LONG = ("drop", "truncate", "split")  # what becomes of an example that is longer than a sequence


class TokenStore:
    """Token ids of the examples of one split, in a temporary file: a large data set does not have to fit into memory.

    A token that carries no loss is stored as the complement of its id, which is negative.

    Attributes:
        lengths: tokens of each example that was seen, dropped ones too.
        label_tokens: how many tokens carry loss.
        truncated: how many examples lost their end.
        split: how many became several.
    """

    def __init__(self, folder: Path, seq_len: int, loss_on: str, long: str) -> None:
        """The temporary file is made in `folder`, which exists."""
        self._seq_len = seq_len
        self._loss_on = loss_on
        self._long = long
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as the store is used
        self._ends = array("q", [0])
        self.lengths = array("i")
        self.label_tokens = self.dropped = self.truncated = self.split = 0

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
        pieces = [np.array(ids, np.int32) for ids in example.ids]
        learnt = [carries_loss(number, len(pieces), self._loss_on) for number in range(len(pieces))]
        stored = np.concatenate([ids if learn else ~ids for ids, learn in zip(pieces, learnt, strict=True)])
        stored[0] = min(stored[0], ~stored[0])  # nothing stands before the first token to predict it
        self._file.write(stored.data)
        self._ends.append(self._ends[-1] + len(stored))
        self.label_tokens += int(np.count_nonzero(stored >= 0))

    @property
    def longest(self) -> int:
        """Tokens of the longest example, which tells the --seq-len that would keep them all."""
        return max(self.lengths, default=0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def length(self, index: int) -> int:
        return self._ends[index + 1] - self._ends[index]

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The token ids (int32) of an example, and which of them carry loss (bool)."""
        self._file.flush()
        start, size = self._ends[index], np.dtype(np.int32).itemsize
        read = os.pread(self._file.fileno(), self.length(index) * size, start * size)
        stored = np.frombuffer(read, np.int32)
        learnt = stored >= 0
        return np.where(learnt, stored, ~stored), learnt

    def statistics(self, sequences: int) -> dict[str, Any]:
        """What the split holds once it lies in that many sequences."""
        tokens = self._ends[-1]
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
