"""The sequences that optimum-neuron's trainer is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.token_dataset import TokenSet
from common.training.optimizer import Plan
from common.training.optimum import data as optimum_data
from tests.scripts.training_files import make_tokens


@pytest.fixture
def data(tmp_path: Path) -> TokenSet:
    return TokenSet(make_tokens(tmp_path / "tokens"), "train")


def test_every_step_is_whole_and_every_sequence_is_seen(data: TokenSet) -> None:
    plan = Plan(len(data), batch_size=2, accumulate=2, epochs=2, max_steps=0, seed=3)
    stream = optimum_data.Stream(data, plan, 0)
    assert len(stream) == plan.steps * 4 == 24, "10 sequences: two steps of 4, and one of 2 that is filled up"
    for epoch in range(2):
        steps = [stream.sequences(step) for step in range(epoch * 3, epoch * 3 + 3)]
        assert set(np.concatenate(steps)) == set(range(10))
        assert list(np.concatenate(steps)[:10]) == list(dict.fromkeys(np.concatenate(steps))), "repeats fill up"
    with pytest.raises(IndexError):
        stream[len(stream)]


def test_a_resumed_training_gets_the_remaining_sequences(data: TokenSet) -> None:
    plan = Plan(len(data), batch_size=2, accumulate=1, epochs=1, max_steps=4, seed=3)
    whole, rest = optimum_data.Stream(data, plan, 0), optimum_data.Stream(data, plan, 3)
    assert [row["input_ids"].tolist() for row in rest] == [whole[i]["input_ids"].tolist() for i in (6, 7)]


def test_the_tokens_of_a_step_are_counted(data: TokenSet) -> None:
    stream = optimum_data.Stream(data, Plan(len(data), 3, 1, 1, 0, 0), 0)
    rows = [stream[index] for index in range(3)]
    useful, labelled = (sum(int((row[name] > limit).sum()) for row in rows) for name, limit in _LIMITS)
    assert stream.tokens(0) == (useful, labelled)


_LIMITS = (("segment_ids", 0), ("labels", -1))


def test_examples_of_a_sequence_do_not_see_each_other(data: TokenSet) -> None:
    rows = [optimum_data.Stream(data, Plan(len(data), 2, 1, 1, 0, 0), 0)[index] for index in range(2)]
    batch = optimum_data.Collator(masked=True, dtype=torch.float32)(rows)
    assert set(batch) == {"input_ids", "labels", "position_ids", "attention_mask"}
    length = len(rows[0]["input_ids"])
    assert batch["attention_mask"].shape == (2, 1, length, length)
    for number, row in enumerate(rows):
        segments, start = row["segment_ids"], 0
        for place in range(length):
            start = place if place and segments[place] != segments[place - 1] else start
            assert batch["position_ids"][number, place] == place - start
            seen = (batch["attention_mask"][number, 0, place] == 0).nonzero().flatten().tolist()
            assert seen == list(range(start, place + 1))


def test_the_kernel_is_given_no_mask(data: TokenSet) -> None:
    row = optimum_data.Stream(data, Plan(len(data), 1, 1, 1, 0, 0), 0)[0]
    assert set(optimum_data.Collator(masked=False, dtype=torch.bfloat16)([row])) == {"input_ids", "labels"}
