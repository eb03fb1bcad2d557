"""Composition, and that a mistake anywhere is refused with its place, its key and what to try."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.groups import recipe_names
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import CONFIGS


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_composes(name: str) -> None:
    assert compose(name).recipe.name == name.rpartition("/")[2]


def test_groups_pick_files_and_keys_reach_any_value() -> None:
    recipe = compose("quickstart", ["tp_size=8", "train.epochs=7", "train.lora.rank=3"]).recipe
    assert (recipe.parallel.tp_size, recipe.train.epochs, recipe.train.lora.rank) == (8, 7, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("defaults: [base, _self_]\ntrain: {epoch: 2}\n", "train.epoch: no such key; did you mean epochs?"),
        ("defaults: [base, _self_]\ntrain: {epochs: two}\n", "train.epochs: must be an integer"),
        ("defaults: [base, _self_]\ntrain: 3\n", "train"),
        ("defaults: [base, {override hardware: trn9}]\n", "trn9"),
        ("defaults: [base\n", "mine.yaml:2: not valid YAML"),
    ],
)
def test_a_mistake_in_a_recipe_names_the_file(tmp_path: Path, text: str, expected: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    with pytest.raises(RecipeError) as caught:
        compose(str(recipe))
    assert expected in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_mistake_in_a_group_names_its_file() -> None:
    option = CONFIGS / "train" / "wrong_for_test.yaml"
    option.write_text("epocs: 3\n")
    try:
        with pytest.raises(RecipeError, match=r"configs/train/wrong_for_test.yaml: train\.epocs"):
            compose("quickstart", ["train=wrong_for_test"])
    finally:
        option.unlink()


def test_unknown_recipes_get_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="did you mean quickstart"):
        compose("quickstat")
    with pytest.raises(RecipeError, match="no such recipe file"):
        compose("./nowhere/mine.yaml")


def test_a_server_that_is_left_out_is_told() -> None:
    [note] = compose("quickstart", ["evaluate=none", "serve=embedded"]).notes
    assert note.startswith("serve=embedded: left out: ") and "`runner serve`" in note
    assert compose("quickstart", ["evaluate=none", "serve=none"]).notes == ()
