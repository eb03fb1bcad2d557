from __future__ import annotations

import pytest
from planned import NXD, command

from runner.plan.stages import train


@pytest.mark.parametrize(
    ("overrides", "program"),
    [((), "train_torch.py"), (NXD, "train_nxd.py"), ((*NXD, "train=optimum_lora"), "train_optimum.py")],
)
def test_the_recipes_trainer_trains_and_resumes(overrides: tuple[str, ...], program: str) -> None:
    made = command(train.command, *overrides, after="modelling fetch tokenize convert compile")
    assert (made.program, made.resumable) == (program, True)
