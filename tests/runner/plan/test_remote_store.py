"""The remote store of a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.build import build
from runner.plan.command import Place

PLACE = Place(Path("/code"), Path("/store"), "/venv/bin/python")


def plan(*overrides: str):
    return build(compose("quickstart", overrides).recipe, PLACE)


def test_a_plan_names_the_program_that_copies_and_what_it_needs() -> None:
    assert plan().remote_store is None
    for address, package in (("s3://bucket/store", "s3fs"), ("/shared/store", "fsspec")):
        settings = plan(f"paths.remote_store={address}").remote_store
        assert settings
        assert settings["argv"] == ["/venv/bin/python", "/code/scripts/remote_store.py", address]
        assert any(text.startswith(package) for text in settings["packages"]["/venv/bin/python"])


def test_artifacts_are_the_same_with_and_without_it() -> None:
    keys = [[step.key for step in plan(*words).steps] for words in ([], ["paths.remote_store=s3://bucket/store"])]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("address", ["shared/store", "gs://bucket/store", "s3://", "''"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(RecipeError, match=r"^paths\.remote_store: .*s3://BUCKET/PREFIX"):
        plan(f"paths.remote_store={address}")


def test_compiled_programs_are_kept_there_too_and_another_place_has_to_be_filled() -> None:
    recipe = ["llama3_8b_dolly_trn2"]
    plans = [build(compose(recipe[0], words).recipe, PLACE) for words in ([], ["paths.remote_store=s3://bucket/store"])]
    steps = [{step.stage: step for step in one.steps} for one in plans]
    assert steps[0]["train"].env["NEURON_COMPILE_CACHE_URL"] == "/store/neuron-cache"
    assert steps[1]["train"].env["NEURON_COMPILE_CACHE_URL"] == "s3://bucket/store/neuron-cache"
    assert steps[0]["compile"].key != steps[1]["compile"].key
    assert steps[0]["train"].key == steps[1]["train"].key
