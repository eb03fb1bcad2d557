"""Batches of packed tokens: nothing is lost, nothing is mixed, and a bad tokens folder is one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data.token_dataset import TokenSet
from common.program import BadInput
from tests.scripts.training_files import VOCAB_SIZE, make_tokens


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path / "tokens")


def test_batch_holds_every_real_token_once_and_restarts_positions(tokens):
    data = TokenSet(tokens, "train")
    batch = data.batch(np.array([1, 3]))
    real = data.input_ids[[1, 3]][data.segment_ids[[1, 3]] > 0]
    assert sorted(batch.input_ids.tolist()) == sorted(real.tolist())
    assert (batch.positions == 0).sum() == data.segment_ids[[1, 3]].max(axis=1).sum()


def test_labelled_rows_stand_just_before_their_targets(tokens):
    data = TokenSet(tokens, "train")
    batch = data.batch(np.array([0, 2]))
    assert len(batch.rows) == (data.labels[[0, 2]] >= 0).sum()
    assert torch.equal(batch.input_ids[batch.rows + 1], batch.targets)
    assert torch.equal(batch.positions[batch.rows + 1], batch.positions[batch.rows] + 1)


def test_groups_cover_all_rows_and_unpad_inverts_pad(tokens):
    batch = TokenSet(tokens, "train").batch(np.arange(10))
    rows = torch.randn(len(batch.input_ids), 3)
    back = torch.full_like(rows, torch.nan)
    for group in batch.groups:
        padded = group.pad(rows)
        assert padded.shape == (group.count, group.length, 3)
        group.unpad(padded, back)
    assert torch.equal(back, rows)
    assert any(group.places is not None for group in batch.groups)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("labels", lambda array: np.full_like(array, -100), "no token has a label"),
        ("input_ids", lambda array: array + VOCAB_SIZE, "do not fit vocab_size"),
        ("segment_ids", np.zeros_like, "padding alone"),
        ("labels", lambda array: array[:-1], "shape differs"),
        ("labels", lambda array: array.astype(np.int64), "expected int32"),
    ],
)
def test_unusable_arrays_are_refused(tokens, name, change, complaint):
    path = tokens / f"train.{name}.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(BadInput, match=complaint):
        TokenSet(tokens, "train").check(VOCAB_SIZE)


@pytest.mark.parametrize("size", [0, 50, 600])
def test_truncated_array_is_refused(tokens, size):
    path = tokens / "train.labels.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadInput, match="not a complete"):
        TokenSet(tokens, "train")


def test_missing_array_is_refused(tokens):
    (tokens / "train.labels.npy").unlink()
    with pytest.raises(BadInput, match="labels.npy is missing"):
        TokenSet(tokens, "train")
