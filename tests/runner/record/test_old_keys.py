"""Old records are read with today's keys."""

from __future__ import annotations

import dataclasses

import pytest

from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.compose.validate import build, keys
from runner.record import old_keys


def test_the_new_keys_exist_and_the_old_ones_do_not() -> None:
    known = {key for key, _, _ in keys(Recipe)}
    assert set(old_keys._RENAMED.values()) <= known
    assert not set(old_keys._RENAMED) & known


@pytest.mark.parametrize(("old", "new"), old_keys._RENAMED.items())
def test_a_value_moves_to_the_new_key_unless_that_has_one(old: str, new: str) -> None:
    recipe = dataclasses.asdict(compose("quickstart").recipe)
    del section(recipe, new)[new.rpartition(".")[2]]
    section(recipe, old)[old.rpartition(".")[2]] = "value"
    renamed = old_keys.rename_old_keys(recipe)
    build(Recipe, renamed)
    assert section(renamed, new)[new.rpartition(".")[2]] == "value"
    assert section(recipe, old)[old.rpartition(".")[2]] == "value", "the record's own values were changed"
    section(recipe, new)[new.rpartition(".")[2]] = "newer"
    assert section(old_keys.rename_old_keys(recipe), new)[new.rpartition(".")[2]] == "newer"


def test_a_part_of_a_recipe_may_be_missing() -> None:
    assert old_keys.rename_old_keys({"name": "x", "train": None}) == {"name": "x", "train": None}


def section(recipe: dict, key: str) -> dict:
    for name in key.split(".")[:-1]:
        recipe = recipe[name]
    return recipe


@pytest.mark.parametrize(
    ("target", "where"),
    [
        ({"kind": "local", "host": None}, "here"),
        ({"kind": "ssh", "host": "trn2-a"}, "trn2-a"),
        ({"kind": "slurm", "host": "login"}, "slurm at login"),
        ({"kind": "kubernetes", "host": None}, "kubernetes"),
    ],
)
def test_a_plan_of_an_earlier_version_ran_where_its_recipe_says(target: dict, where: str) -> None:
    assert old_keys.old_where(target) == where
