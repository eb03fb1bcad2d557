"""A sweep ends when its trials have cost, or used, as much as they may."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import a_run

from runner.commands.sweep.budget import Budget, budget_of
from runner.compose.recipe import compose
from runner.errors import RecipeError
from tests.runner.record.test_cost import PRICE, timed


def test_a_limit_is_reached_by_all_trials_together(tmp_path: Path) -> None:
    trials = [timed(a_run(tmp_path, PRICE, key=f"train-{number}"), 100.0) for number in range(2)]  # a dollar each
    assert Budget(max_cost=2.5).exhausted(trials) is None
    assert Budget(max_cost=2.0).exhausted(trials) == "stopped by sweep.max_cost: $2.00 of $2.00 spent"
    assert Budget(max_hours=0.05).exhausted(trials) == "stopped by sweep.max_hours: 0.06 of 0.05 hours used"
    assert Budget().exhausted(trials) is None


def test_dollars_need_a_price() -> None:
    with pytest.raises(RecipeError, match="sweep.max_cost: cpu has no price"):
        budget_of(compose("quickstart", ["sweep.max_cost=5"]).recipe)
    recipe = compose("quickstart", ["sweep.max_cost=5", PRICE]).recipe
    assert budget_of(recipe) == Budget(max_cost=5.0)
