"""Packed sequences on disk, and a micro-batch of them as one flat list of tokens.

Only attention looks beyond its own row, so a micro-batch is its real tokens in a row, (tokens, hidden_size):
padding costs nothing. For attention, examples of like length stand together as a group, padded to the
longest of the group; under a causal mask padding at the end is never seen by a real token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from common.data.packing import IGNORED
from common.program import BadInput

_SHORTEST_OF_GROUP = 0.7  # of the group's longest: lower pads more, higher makes more and smaller matmuls
_ARRAYS = ("input_ids", "labels", "segment_ids")


@dataclass(frozen=True)
class Group:
    """Examples `start:stop` (rows of the flat list) of like length, as `count` × `length` padded places."""

    start: int
    stop: int
    count: int
    length: int
    places: torch.Tensor | None  # (stop - start,) places that the rows take; None: there is no padding

    def pad(self, rows: torch.Tensor) -> torch.Tensor:
        """(all tokens, width) to (count, length, width)."""
        rows = rows[self.start : self.stop]
        if self.places is None:
            return rows.view(self.count, self.length, -1)
        padded = rows.new_zeros(self.count * self.length, rows.shape[1])
        return padded.index_copy_(0, self.places, rows).view(self.count, self.length, -1)

    def unpad(self, padded: torch.Tensor, rows: torch.Tensor) -> None:
        """The inverse of `pad`: write (count, length, width) into its rows of (all tokens, width)."""
        flat, target = padded.view(self.count * self.length, -1), rows[self.start : self.stop]
        if self.places is None:
            target.copy_(flat)
        else:
            torch.index_select(flat, 0, self.places, out=target)


@dataclass(frozen=True)
class Batch:
    """One micro-batch; `rows` are those whose next token has a label, `targets` those labels."""

    input_ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,) restarting at 0 in each example
    rows: torch.Tensor  # (labelled,)
    targets: torch.Tensor  # (labelled,)
    groups: list[Group]


class TokenSet:
    """One split ("train" or "eval") of a tokens folder: three int32 arrays of (sequences, seq_len), mapped."""

    def __init__(self, folder: Path, split: str) -> None:
        self.paths = [folder / f"{split}.{name}.npy" for name in _ARRAYS]
        self.input_ids, self.labels, self.segment_ids = (_load(path) for path in self.paths)
        shapes = {array.shape for array in (self.input_ids, self.labels, self.segment_ids)}
        if len(shapes) > 1:
            raise BadInput(f"{self.paths[0]}: shape differs from its labels or segment_ids; tokenize again")

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def seq_len(self) -> int:
        return self.input_ids.shape[1]

    def check(self, vocab_size: int) -> None:
        """Raise BadInput when there is nothing to learn from or a token is not in the vocabulary."""
        if not self.labels.size or self.labels.max() < 0:
            raise BadInput(f"{self.paths[1]}: no token has a label; is the tokens folder of an empty data set?")
        if self.segment_ids.max(axis=1).min() < 1:
            raise BadInput(f"{self.paths[2]}: a sequence holds padding alone; tokenize again")
        top = max(int(self.input_ids.max()), int(self.labels.max()))
        if top >= vocab_size or self.input_ids.min() < 0:
            raise BadInput(f"{self.paths[0]}: token ids do not fit vocab_size {vocab_size}; tokenize with this model")

    def digest(self) -> str:
        """SHA-256 of the arrays, so that a checkpoint is continued on the data it began with."""
        total = hashlib.sha256()
        for array in (self.input_ids, self.labels, self.segment_ids):
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()

    def batch(self, sequences: np.ndarray) -> Batch:
        """The examples packed in these `sequences`, the longest first."""
        examples = sorted(
            (example for index in sequences for example in self._examples(index)), key=lambda it: -len(it[0])
        )
        lengths = np.array([len(ids) for ids, _ in examples])
        input_ids = np.concatenate([ids for ids, _ in examples])
        labels = np.concatenate([labels for _, labels in examples])
        positions = np.concatenate([np.arange(length) for length in lengths])
        labelled = np.flatnonzero((labels != IGNORED) & (positions > 0))
        arrays = (input_ids, positions, labelled - 1, labels[labelled])
        return Batch(*(torch.from_numpy(array.astype(np.int64)) for array in arrays), groups=_groups(lengths))

    def _examples(self, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
        segments = self.segment_ids[index]
        edges = [0, *(np.flatnonzero(np.diff(segments)) + 1), len(segments)]
        return [
            (self.input_ids[index, a:b], self.labels[index, a:b])
            for a, b in zip(edges, edges[1:], strict=False)
            if segments[a] > 0
        ]


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BadInput(f"--data: {path} is missing; give the folder that tokenize_dataset.py wrote") from None
    except (ValueError, EOFError) as error:
        raise BadInput(f"--data: {path} is not a complete NumPy file ({error}); tokenize again") from None
    if array.ndim != 2 or array.dtype != np.int32:
        raise BadInput(f"--data: {path} is {array.dtype} {array.shape}, expected int32 (sequences, seq_len)")
    return array


def _groups(lengths: np.ndarray) -> list[Group]:
    """Cut the examples, sorted by length from the longest, into groups of like length."""
    groups, first, start = [], 0, 0
    for last in range(1, len(lengths) + 1):
        if last == len(lengths) or lengths[last] < _SHORTEST_OF_GROUP * lengths[first]:
            group = _group(start, lengths[first:last])
            groups.append(group)
            first, start = last, group.stop
    return groups


def _group(start: int, lengths: np.ndarray) -> Group:
    count, longest, total = len(lengths), int(lengths[0]), int(lengths.sum())
    places = None
    if total < count * longest:
        places = torch.from_numpy(np.flatnonzero(np.arange(longest) < lengths[:, None]))
    return Group(start, start + total, count, longest, places)
