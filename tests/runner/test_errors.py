"""Suggestions for misspelt names."""

from __future__ import annotations

import pytest

from runner.compose.schema import Recipe
from runner.compose.validate import keys
from runner.errors import _SYNONYMS, did_you_mean

KEYS = [key for key, _, _ in keys(Recipe)]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("lr", "train.learning_rate"),
        ("rank", "train.lora.rank"),
        ("lora_alpha", "train.lora.alpha"),
        ("lora_r", "train.lora.rank"),
        ("max_seq_length", "dataset.seq_len"),
        ("per_device_train_batch_size", "train.batch_size"),
        ("smoke_promts", "serve.smoke_prompts"),
    ],
)
def test_the_nearest_key_is_suggested(wrong: str, nearest: str) -> None:
    assert did_you_mean(wrong, KEYS) == f"did you mean {nearest}?"


def test_a_few_names_are_all_listed_and_many_are_not() -> None:
    assert did_you_mean("zzz", ["cpu", "trn1"]) == "choose from: cpu, trn1"
    assert did_you_mean("zzz", map(str, range(1000, 1021))) == "see `runner options` for all keys"
    assert did_you_mean("zzz", []) == "none exist yet"


def test_names_from_other_trainers_stand_for_keys_that_exist() -> None:
    for name in _SYNONYMS.values():
        assert any(f".{key}".endswith(f".{name}") for key in KEYS), name
