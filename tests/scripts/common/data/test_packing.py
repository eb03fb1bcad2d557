from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.data.packing import IGNORED, lay_out, pack

SEQ_LEN = 32


@given(st.lists(st.integers(1, SEQ_LEN)))
def test_every_example_is_placed_once_and_none_overflows(lengths):
    sequences = pack(lengths, SEQ_LEN)
    assert sorted(index for members in sequences for index in members) == list(range(len(lengths)))
    assert all(members for members in sequences)
    assert all(sum(lengths[index] for index in members) <= SEQ_LEN for members in sequences)


@given(st.lists(st.integers(1, SEQ_LEN)))
def test_packing_is_tight_and_reproducible(lengths):
    sequences = pack(lengths, SEQ_LEN)
    used = sorted(sum(lengths[index] for index in members) for members in sequences)
    assert all(first + second > SEQ_LEN for first, second in zip(used, used[1:], strict=False)), "two half-empty ones"
    assert pack(lengths, SEQ_LEN) == sequences


def test_each_example_goes_where_it_fits_best():
    assert pack([6, 8, 2, 4], 10) == [[1, 2], [0, 3]]


def test_many_short_examples_fill_nearly_everything():
    lengths = np.random.default_rng(0).lognormal(4.8, 0.7, 15_000).clip(8, 512).astype(int).tolist()
    assert sum(lengths) / (512 * len(pack(lengths, 512))) > 0.99


@st.composite
def one_sequence(draw):
    lengths = draw(st.lists(st.integers(1, 6), max_size=5))
    learnt = [draw(st.lists(st.booleans(), min_size=length, max_size=length)) for length in lengths]
    ids = [np.arange(1, length + 1, dtype=np.int32) + 10 * number for number, length in enumerate(lengths, 1)]
    return list(zip(ids, map(np.array, learnt), strict=True))


@given(one_sequence())
def test_tokens_labels_and_segments_agree(examples):
    input_ids, labels, segments = (np.full(SEQ_LEN, 99, dtype=np.int32) for _ in range(3))
    lay_out(examples, input_ids, labels, segments)
    for number, (ids, learnt) in enumerate(examples, 1):
        here = segments == number
        assert input_ids[here].tolist() == ids.tolist()
        assert labels[here].tolist() == np.where(learnt, ids, IGNORED).tolist()
        assert np.ptp(np.flatnonzero(here)) == len(ids) - 1, "an example lies in one piece"
    padding = segments == 0
    assert padding.sum() == SEQ_LEN - sum(len(ids) for ids, _ in examples)
    assert (input_ids[padding] == 0).all()
    assert (labels[padding] == IGNORED).all()
    assert not padding[: (~padding).sum()].any(), "padding comes last"
