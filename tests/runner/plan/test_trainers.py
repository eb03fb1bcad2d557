"""The table of trainers agrees with the schema, the config options, and what is known of models."""

from __future__ import annotations

import pytest

from runner.compose.recipe import compose
from runner.compose.schema import BACKENDS
from runner.plan.checks import model_config
from runner.plan.trainers import TRAINERS, Trainer, trainer_of


def test_every_backend_of_the_schema_is_in_the_table() -> None:
    assert tuple(TRAINERS) == BACKENDS


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_the_option_of_a_trainer_selects_it(trainer: Trainer) -> None:
    assert trainer_of(compose("quickstart", [f"train={trainer.option}"]).recipe) is trainer


def test_every_trainer_knows_which_models_it_computes() -> None:
    named = {name for names in model_config.supported()["families"].values() for name in names["trainers"]}
    assert named == set(TRAINERS), "scripts/common/formats/model_config.json"
