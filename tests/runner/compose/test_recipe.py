"""Composition, and that a mistake anywhere is refused with its place, its key and what to try."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.recipe import CONFIGS, compose, groups, recipe_names
from runner.errors import RecipeError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_composes(name: str) -> None:
    assert compose(name).recipe.name == name


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in groups() for option in groups()[group]])
def test_every_option_composes(group: str, option: str) -> None:
    assert compose("quickstart", [f"{group}={option}"]).choices[group] == option


def test_groups_pick_files_and_keys_reach_any_value() -> None:
    recipe = compose("quickstart", ["tp_size=8", "train.epochs=7", "train.lora.rank=3"]).recipe
    assert (recipe.parallel.tp_size, recipe.train.epochs, recipe.train.lora.rank) == (8, 7, 3)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tp_sise=4", "did you mean tp_size?"),
        ("+typo_of_nothing=1", "no such key"),
        ("lora.rank=4", "did you mean train.lora.rank?"),
        ("tp_size=5", "parallel.tp_size=5"),
        ("hardware=trn3", "did you mean trn"),
        ("train.epochs=three", "takes a whole number"),
        ("train.epochs=1.5", "takes a whole number"),
        ("train.epochs=0", "the least is 1"),
        ("train.lora.dropout=1", "the most is 0.99"),
        ("train.lora.targets=[q_proj,qproj]", "did you mean q_proj?"),
        ("train.lora.targets=q_proj", "takes a list"),
        ("train.learning_rate=nan", "too small"),
        ("train.gradient_checkpointing=1", "takes true or false"),
        ("serve.mode=smok", "did you mean smoke?"),
        ("train=3", "no such train"),
        ("dataset.template=x", "takes keys below it"),
        ("train.epochs=1,2", "add -m"),
        ("train.epochs=[", "command line"),
    ],
)
def test_a_wrong_override_gets_one_helpful_line(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compose("quickstart", [override])
    assert expected in str(caught.value)
    assert "command line" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shorthand_that_the_recipe_overrules_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults: [base, _self_]\nparallel: {tp_size: 2}\n")
    with pytest.raises(RecipeError, match=r"say parallel\.tp_size=4"):
        compose(str(recipe), ["tp_size=4"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("defaults: [base, _self_]\ntrain: {epoch: 2}\n", "train.epoch: no such key; did you mean epochs?"),
        ("defaults: [base, _self_]\ntrain: {epochs: two}\n", "train.epochs: takes a whole number"),
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


def test_a_recipe_brings_options_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [base, _self_]\n")
    own, shared = tmp_path / "configs" / "train", tmp_path / "team" / "train"
    own.mkdir(parents=True)
    shared.mkdir(parents=True)
    (own / "slow.yaml").write_text("learning_rate: 1.0e-6\n")
    (shared / "slow.yaml").write_text("learning_rate: 1.0e-5\n")
    (shared / "fast.yaml").write_text("learning_rat: 1.0e-2\n")
    monkeypatch.setenv("RUNNER_CONFIGS", str(tmp_path / "team"))
    assert compose(str(tmp_path / "mine.yaml"), ["train=slow"]).recipe.train.learning_rate == 1e-6
    assert compose("quickstart", ["train=slow", "train.learning_rate=1e-3"]).recipe.train.learning_rate == 1e-3
    with pytest.raises(RecipeError, match=r"team/train/fast.yaml: train.learning_rat: .* did you mean learning_rate"):
        compose(str(tmp_path / "mine.yaml"), ["train=fast"])
    with pytest.raises(RecipeError, match="did you mean slow"):
        compose(str(tmp_path / "mine.yaml"), ["train=slo"])
