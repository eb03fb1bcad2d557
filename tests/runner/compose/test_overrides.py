"""A wrong override is refused with one line that says what to try."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tp_sise=4", "did you mean tp_size?"),
        ("+typo_of_nothing=1", "no such key"),
        ("lora.rank=4", "did you mean train.lora.rank?"),
        ("tp_size=5", "parallel.tp_size=5"),
        ("hardware=trn9", "did you mean trn"),
        ("train.epochs=three", "must be an integer"),
        ("train.epochs=1.5", "must be an integer"),
        ("train.epochs=0", "the minimum is 1"),
        ("train.lora.dropout=1", "the maximum is 0.99"),
        ("train.lora.targets=[q_proj,qproj]", "did you mean q_proj?"),
        ("train.lora.targets=q_proj", "must be a list"),
        ("train.learning_rate=nan", "too small"),
        ("train.gradient_checkpointing=1", "must be true or false"),
        ("serve.mode=smok", "did you mean smoke?"),
        ("train=3", "no such train"),
        ("dataset.template=x", "must be a mapping"),
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
    with pytest.raises(RecipeError, match=r"set parallel\.tp_size=4"):
        compose(str(recipe), ["tp_size=4"])


@pytest.mark.parametrize(
    ("override", "section"),
    [
        ("target.kubernetes.node_selector.zone=a", ("target", "kubernetes", "node_selector")),
        ("target.kubernetes.node_selector={zone: a}", ("target", "kubernetes", "node_selector")),
        ("sdk.images.zone=a", ("sdk", "images")),
        ("dataset.where.zone=a", ("dataset", "where")),
    ],
)
def test_a_mapping_of_the_schema_accepts_any_key(override: str, section: tuple[str, ...]) -> None:
    value = compose("quickstart", [override]).recipe
    for name in section:
        value = getattr(value, name)
    assert value["zone"] == "a"
