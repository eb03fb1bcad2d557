"""What Ray is asked for, and which recipes are refused."""

from __future__ import annotations

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.model import Plan


def planned(*words: str) -> Plan:
    recipe = compose("quickstart", ["target=ray", *words]).recipe
    return targets.of(recipe.target).plan(recipe)


def test_the_job_asks_for_resources_of_the_cluster() -> None:
    job = planned("target.ray.cpus=4", "target.ray.resources.disk=2").job
    assert job and (job["scheduler"], job["cpus"], job["resources"]) == ("ray", 4, {"disk": 2.0})


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("parallel.nodes=2", "a run on target=ray uses one machine, not 2"),
        ("target.ray.resources.disk=much", "give an amount of each"),
        ("serve.mode=foreground", "say serve.host=0.0.0.0"),
    ],
)
def test_impossible_recipes_are_refused(word: str, problem: str) -> None:
    with pytest.raises(RecipeError) as error:
        planned(word)
    assert problem in str(error.value)
