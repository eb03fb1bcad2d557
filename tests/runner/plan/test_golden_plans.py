"""The plans of the recipes are those that were reviewed: tests/data/plans, written by `make golden`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data" / "plans"
_SPEC = importlib.util.spec_from_file_location("make_plans", DATA / "make.py")
assert _SPEC and _SPEC.loader
make = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make)


@pytest.mark.parametrize("name", sorted(make.PLANS))
@pytest.mark.parametrize("kind", sorted(make.PLACES))
def test_a_plan_is_the_reviewed_one(name: str, kind: str) -> None:
    assert make.text(make.PLANS[name], make.PLACES[kind]) == (DATA / f"{name}-{kind}.txt").read_text(), (
        "`make golden` writes it again"
    )


@pytest.mark.parametrize("name", sorted(make.HANDED))
def test_what_a_scheduler_is_handed_is_what_was_reviewed(name: str) -> None:
    assert make.handed(make.HANDED[name]) == (DATA / f"{name}.txt").read_text(), "`make golden` writes it again"


def test_every_recipe_has_a_reviewed_plan() -> None:
    from runner.compose.groups import recipe_names

    assert {words[0] for words in make.PLANS.values()} == set(recipe_names())
