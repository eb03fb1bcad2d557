"""The keys of a recipe: each has a help, and its default is a valid value."""

from __future__ import annotations

import pytest

from common.shards import layout
from runner.compose import schema
from runner.compose.groups import recipe_names
from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.compose.validate import keys

KEYS = {key: field for key, field, _ in keys(Recipe)}


def test_every_key_has_help() -> None:
    assert [key for key, field in KEYS.items() if not field.metadata.get("help")] == []


@pytest.mark.parametrize("name", ["base", *recipe_names()])
def test_every_value_of_a_recipe_is_within_the_bounds_of_its_key(name: str) -> None:
    def check(section: object, prefix: str) -> None:
        for key, value in vars(section).items():
            metadata = KEYS[prefix + key].metadata if prefix + key in KEYS else {}
            if isinstance(value, (int, float)) and metadata.get("minimum") is not None:
                assert value >= metadata["minimum"], prefix + key
            if isinstance(value, str) and metadata.get("choices"):
                assert value in metadata["choices"], prefix + key
            if hasattr(value, "__dataclass_fields__"):
                check(value, f"{prefix}{key}.")

    check(compose(name).recipe, "") if name != "base" else check(Recipe(model=schema.Model(path="x")), "")


def test_lists_and_mappings_of_two_recipes_are_apart() -> None:
    first, second = Recipe(), Recipe()
    first.train.lora.targets.clear()
    first.dataset.where["topic"] = "birds"
    assert second.train.lora.targets == list(schema.LORA_TARGETS)
    assert second.dataset.where == {}


def test_layouts_are_those_of_the_stage_programs() -> None:
    assert schema.LAYOUTS == layout.LAYOUTS


def test_the_width_of_a_head_follows_from_the_model_unless_it_is_set() -> None:
    shapes = schema.Architecture(hidden_size=64, num_attention_heads=4)
    assert shapes.head_width == 16
    assert schema.Architecture(hidden_size=64, num_attention_heads=4, head_dim=32).head_width == 32
