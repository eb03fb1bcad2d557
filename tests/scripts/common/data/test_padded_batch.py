"""Micro-batches of full rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.data import padded_batch
from common.data.token_dataset import TokenSet
from tests.scripts.training_files import make_tokens


def test_micro_batches_keep_their_shape_and_tell_examples_apart(tmp_path: Path) -> None:
    tokens = TokenSet(make_tokens(tmp_path / "tokens"), "train")
    one = padded_batch.batch(tokens, np.array([3]), rows=2)
    assert {array.shape for array in one.tensors} == {(2, 96)}
    segments, positions, weights = one.tensors.segments, one.tensors.positions, one.tensors.weights
    begins = np.flatnonzero(np.diff(segments[0])) + 1
    assert len(begins) and not positions[0, begins].any()
    assert not weights[0, begins - 1].any(), "the first token of an example is predicted by nothing"
    assert not weights[1].any() and not one.tensors.targets[1].any()
    labelled = np.flatnonzero(weights[0])
    assert np.array_equal(one.tensors.targets[0, labelled], tokens.labels[3, labelled + 1])
    assert (one.tokens, one.labelled) == (int((tokens.segment_ids[3] > 0).sum()), len(labelled))
