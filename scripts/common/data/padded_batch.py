"""A micro-batch as full rows, padding included: a device that compiles its programs needs the same shape every time.

Packed examples are told apart by their segment, for attention that stays within an example, and by positions
that restart. What a token is to predict stands at the token itself, so no shift is left to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.data.packing import IGNORED
from common.data.token_dataset import TokenSet


class Tensors(NamedTuple):
    """What the model and the loss read, each (rows, seq_len). A position without a label has target 0 and weight 0."""

    input_ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class PaddedBatch:
    """One micro-batch, with its counts of real tokens and of labels."""

    tensors: Tensors
    tokens: int
    labelled: int


def batch(tokens: TokenSet, sequences: np.ndarray, rows: int) -> PaddedBatch:
    """These `sequences`, and rows of padding alone up to `rows` of them."""
    input_ids, labels, segments = (
        _filled(array[sequences], rows, empty)
        for array, empty in ((tokens.input_ids, 0), (tokens.labels, IGNORED), (tokens.segment_ids, 0))
    )
    positions = _positions(segments)
    labelled = (labels != IGNORED) & (positions > 0)
    predicts = np.zeros_like(labelled)
    predicts[:, :-1] = labelled[:, 1:]
    targets = np.where(predicts, np.roll(labels, -1, axis=1), 0)
    weights = predicts.astype(np.float32)
    tensors = Tensors(input_ids, positions, segments, targets, weights)
    return PaddedBatch(tensors, int((segments > 0).sum()), int(predicts.sum()))


def _filled(array: np.ndarray, rows: int, empty: int) -> np.ndarray:
    full = np.full((rows, array.shape[1]), empty, dtype=np.int64)
    full[: len(array)] = array
    return full


def _positions(segments: np.ndarray) -> np.ndarray:
    """The number of each token within its example, from 0."""
    places = np.broadcast_to(np.arange(segments.shape[1]), segments.shape)
    begins = np.ones_like(segments, dtype=bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
