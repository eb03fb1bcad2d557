from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from common.training.masks import dropout_seed, masked_positions  # noqa: E402


def test_a_query_sees_earlier_tokens_of_its_own_example_alone() -> None:
    visible = ~masked_positions(torch.tensor([[1, 1, 2, 2]]))
    assert visible.int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]]


def test_the_dropout_seed_depends_on_the_place_alone() -> None:
    assert dropout_seed((0, 3, 1)) == dropout_seed((0, 3, 1))
    assert len({dropout_seed((0, step, index)) for step in range(10) for index in range(10)}) == 100
