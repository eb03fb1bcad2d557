"""Values are converted to the types of the schema, or refused with the key and what it expects."""

from __future__ import annotations

from typing import Any

import pytest

from runner.compose.schema import Recipe
from runner.compose.validate import InvalidKey, build, keys, type_of


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"epoch": 1}}, "train.epoch: no such key; did you mean epochs?"),
        ({"train": {"lora": {"targets": ["q_proj", "x_proj"]}}}, "train.lora.targets: 'x_proj' is not a valid value"),
        ({"train": {"lora": {"targets": []}}}, "train.lora.targets: must have at least one"),
        ({"dataset": {"seq_len": 4}}, "dataset.seq_len: 4 is too small; the minimum is 8"),
        ({"serve": {"port": 65536}}, "serve.port: 65536 is too large; the maximum is 65535"),
        ({"target": []}, "target: must be a mapping, not []"),
    ],
)
def test_an_invalid_value_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        build(Recipe, values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [1.1, True, None])
def test_a_value_that_yaml_converted_is_refused_for_a_string(value: object) -> None:
    with pytest.raises(InvalidKey, match=r"dataset.where.column: must be a string, not .*; put it in quotes"):
        build(Recipe, {"dataset": {"where": {"column": value}}})
    with pytest.raises(InvalidKey, match=r"dataset.split: must be a string, not .*; put it in quotes"):
        build(Recipe, {"dataset": {"split": value}})


def test_values_are_converted_where_nothing_is_lost() -> None:
    recipe = build(Recipe, {"model": {"name": 7, "revision": None}, "train": {"learning_rate": 1}})
    assert (recipe.model.name, recipe.model.revision, recipe.train.learning_rate) == ("7", None, 1.0)


def test_every_key_has_a_type() -> None:
    hints = {key: hint for key, _, hint in keys(Recipe)}
    assert hints["train.lora.rank"] is int
    assert type_of(hints["train"], "epochs") is int
    assert type_of(hints["dataset.where"], "any column") is str
    assert type_of(hints["train"], "no_such_key") is None


@pytest.mark.parametrize(("section", "key"), [("train", "epochs"), ("train", "learning_rate"), ("dataset", "seq_len")])
def test_a_number_that_no_stage_can_hold_is_refused(section: str, key: str) -> None:
    with pytest.raises(InvalidKey, match=f"{key}: 10000000000000000000... is too large"):
        build(Recipe, {section: {key: 10**400}})
