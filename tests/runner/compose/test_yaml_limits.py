"""YAML that takes all memory, or hours, or is none of ours: one line with the place, and nothing is composed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError

BASE = "defaults: [base, _self_]\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (BASE + BOMB, ":2: more than 20000 values"),
        (BASE + "name: &a [*a]", ":2: nested more than 30 levels deep"),
        (BASE + "name: " + "[" * 20_000, ": not valid YAML: nested too deeply"),
        (BASE + "name: " + "x" * 1_000_000, ":2: a value of 1000000 characters"),
        (BASE + "name: " + "x" * 1000, "name: has 1000 characters"),
        (BASE + "train: {epochs: " + "9" * 5000 + "}", "Exceeds the limit"),
        (BASE + "train:\n  ~: 3", "key type 'NoneType'"),
        ("defaults: base", ":1: defaults: must be a list, such as [base, _self_]"),
        ("defaults:", ":1: defaults: must be a list"),
        ("defaults: [" + "base, " * 10_000 + "_self_]", ":1: defaults: 10001 entries"),
    ],
)
def test_a_recipe_that_no_one_needs(tmp_path: Path, content: str, problem: str) -> None:
    assert_refused(tmp_path, content.encode(), problem)


def test_a_recipe_in_another_encoding(tmp_path: Path) -> None:
    assert_refused(tmp_path, f"{BASE}name: caf\u00e9".encode("latin-1"), ":2: not in UTF-8")


def assert_refused(folder: Path, content: bytes, problem: str) -> None:
    file = folder / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError) as refused:
        compose(str(file))
    assert problem in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_many_values_are_no_problem(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{BASE}sdk: {{train_packages: [{', '.join(['torch'] * 5000)}]}}")
    assert len(compose(str(tmp_path / "mine.yaml")).recipe.sdk.train_packages) == 5000
