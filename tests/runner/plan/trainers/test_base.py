"""What all trainers have in common."""

from __future__ import annotations

import dataclasses

import pytest
from planned import recipe_of

from runner.compose.schema import Lora, Train
from runner.plan.trainers import TRAINERS
from runner.plan.trainers.base import common_flags, nxd_lnc_problems


def test_every_key_of_train_and_lora_that_trainers_share_is_a_flag() -> None:
    texts = [getattr(flag, "text", flag) for flag in common_flags(Train())]
    flags = {text.removeprefix("--").removeprefix("no-").replace("-", "_") for text in texts if text.startswith("--")}
    names = {field.name for kind in (Train, Lora) for field in dataclasses.fields(kind)}
    evaluation = {"eval_every", "keep", "early_stopping_patience", "early_stopping_threshold"}
    assert names - flags == {"backend", "lora", "nxd", "compile_cache", "attention", "init_adapter", *evaluation}
    assert flags - names == {"output"}


def test_how_often_a_checkpoint_is_written_does_not_change_the_result() -> None:
    def fingerprint(train: Train) -> list[str]:
        return [getattr(flag, "fingerprint", flag) for flag in common_flags(train)]

    assert fingerprint(Train(checkpoint_every=7)) == fingerprint(Train())
    assert fingerprint(Train(seed=7)) != fingerprint(Train())


@pytest.mark.parametrize(("lnc", "count"), [(1, 1), (2, 0)])
def test_neuronx_distributed_needs_lnc_2(lnc: int, count: int) -> None:
    assert len(list(nxd_lnc_problems(recipe_of("hardware=trn2", f"hardware.lnc={lnc}", "tp_size=8")))) == count


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_what_a_trainer_suggests_to_save_memory_is_a_recipe(trainer) -> None:
    for overrides in trainer.memory_savers(recipe_of()):
        recipe_of(*(f"{key}={str(value).lower()}" for key, value in overrides.items()))
