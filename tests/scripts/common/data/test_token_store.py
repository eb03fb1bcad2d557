"""The tokens of a split. What becomes of long examples is in tests/scripts/test_tokenize_dataset.py, too."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from common.data.row_checks import Example
from common.data.template import Template
from common.data.token_store import TokenStore, carries_loss
from common.data.tokenizer import PromptTokenizer, Text


@pytest.fixture
def tokenizer(tiny_model: Path) -> PromptTokenizer:
    return PromptTokenizer(tiny_model, Template(sections=("{q}",), answer="{a}", separator="\n"))


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [("all", [True] * 4), ("response", [False, True, False, True]), ("last", [False, False, False, True])],
)
def test_answers_carry_loss_or_the_last_one_or_everything(loss_on: str, expected: list[bool]) -> None:
    assert [carries_loss(piece, 4, loss_on) for piece in range(4)] == expected


def example(tokenizer: PromptTokenizer, *ids: list[int]) -> Example:
    return Example({}, Text([""] + ["x"] * (len(ids) - 1), "", "x"), list(ids), tokenizer)


def test_examples_are_kept_in_order_with_what_is_learnt_of_them(tmp_path: Path, tokenizer: PromptTokenizer) -> None:
    store = TokenStore(tmp_path, 8, "response", "drop")
    store.add(example(tokenizer, [5, 6], [7, 8, 9]))
    store.add(example(tokenizer, [], [4, 3]))
    assert (len(store), store.length(0), list(store.example(1)[0])) == (2, 5, [4, 3])
    assert list(store.example(0)[1]) == [False, False, True, True, True]
    assert list(store.example(1)[1]) == [False, True], "nothing stands before the first token to predict it"
    assert store.label_tokens == 4
    statistics = store.statistics(sequences=1)
    assert (statistics["tokens"], statistics["mean_tokens"], statistics["useful_share"]) == (7, 3.5, 0.875)


def test_a_long_example_is_dropped_and_its_length_is_known(tmp_path: Path, tokenizer: PromptTokenizer) -> None:
    store = TokenStore(tmp_path, 4, "response", "drop")
    assert store.add(example(tokenizer, [5], [6, 7, 8, 9])) == []
    assert (len(store), store.dropped, store.longest) == (0, 1, 5)


def test_a_plain_text_is_split_after_every_sequence(tmp_path: Path, tokenizer: PromptTokenizer) -> None:
    store = TokenStore(tmp_path, 4, "all", "split")
    parts = store.add(example(tokenizer, [], list(range(5, 14))))
    assert [part.response_ids for part in parts] == [[5, 6, 7, 8], [9, 10, 11, 12]], "one token predicts nothing"
    assert (store.split, store.dropped) == (1, 0)


def test_memory_does_not_grow_with_the_tokens(tmp_path: Path, tokenizer: PromptTokenizer) -> None:
    store = TokenStore(tmp_path, 1000, "response", "drop")
    one = example(tokenizer, list(range(500)), list(range(500)))
    tracemalloc.start()
    try:
        for _ in range(1000):
            store.add(one)
        for index in range(1000):
            store.example(index)
        assert tracemalloc.get_traced_memory()[1] < 500_000, "a million tokens of 4 bytes lie on the disk"
    finally:
        tracemalloc.stop()
