from __future__ import annotations

import pytest
from planned import NXD, arguments, artifacts, command, recipe_of, value_of

from runner.errors import RecipeError
from runner.plan.stages import modelling


def test_the_trainer_gets_the_modelling_code_of_its_release() -> None:
    made = command(modelling.command, *NXD, "train.nxd.release=2.28")
    assert (made.program, value_of(arguments(made), "--release")) == ("fetch_nxd_model.py", "2.28")


def test_a_trainer_with_its_own_model_needs_no_such_stage() -> None:
    assert modelling.command(recipe_of(), artifacts()) is None


def test_a_release_without_known_code_is_refused_with_what_to_try() -> None:
    recipe = recipe_of(*NXD, "sdk=neuron_2_31")
    with pytest.raises(RecipeError, match="train.nxd.release: no modelling code is known .*, or .*sdk=") as refused:
        modelling.command(recipe, artifacts())
    assert "\n" not in str(refused.value)
