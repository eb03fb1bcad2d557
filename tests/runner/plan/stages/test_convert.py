from __future__ import annotations

import pytest
from planned import NXD, arguments, artifacts, command, recipe_of, value_of

from runner.plan.stages import convert


def test_the_model_is_sharded_as_the_hardware_lays_it_out() -> None:
    made = command(convert.command, "tp_size=2", "hardware.layout=trn1", after="fetch")
    assert arguments(made) == [
        "--input", "/store/objects/fetch-1", "--tp-size", "2", "--layout", "trn1", "--output", "OUT"
    ]  # fmt: skip
    assert made.title == "convert to 2 tensor-parallel shards (trn1 layout)"


def test_copies_of_heads_are_passed_if_the_recipe_sets_them() -> None:
    made = command(convert.command, "tp_size=2", "parallel.kv_size_multiplier=2", after="fetch")
    assert value_of(arguments(made), "--kv-size-multiplier") == "2"


def test_one_shard_is_not_plural() -> None:
    assert "1 tensor-parallel shard " in command(convert.command, "tp_size=1", after="fetch").title


@pytest.mark.parametrize("overrides", [(), NXD])
def test_trainers_that_read_shards_get_them(overrides: tuple[str, ...]) -> None:
    assert convert.command(recipe_of(*overrides), artifacts("fetch")) is not None


def test_a_trainer_that_reads_the_hugging_face_folder_gets_no_shards() -> None:
    assert convert.command(recipe_of(*NXD, "train=optimum_lora"), artifacts("fetch")) is None
