"""The advice for a trainer that does not train on the recipe's hardware names hardware on which it does."""

from __future__ import annotations

import pytest

from runner.compose.recipe import compose
from runner.plan.checks import releases
from runner.plan.trainers import TRAINERS
from runner.plan.trainers.torch import TorchTrainer


class CPUTrainer(TorchTrainer):
    devices = ("cpu",)


def test_a_trainer_for_neuron_on_a_cpu() -> None:
    [problem] = releases.problems(compose("quickstart", ["train=nxd_lora"]).recipe)
    assert problem == "train=nxd_lora: trains on Neuron; try hardware=trn1 or hardware=trn2, or train=torch_lora"


@pytest.mark.parametrize("trainer", ["nxd_lora", "torch_lora", "optimum_lora"])
def test_hardware_that_only_serves(trainer: str) -> None:
    [problem] = releases.problems(compose("quickstart", ["hardware=inf2_8xlarge", f"train={trainer}"]).recipe)
    assert problem == (
        "hardware: inf2.8xlarge serves, but no release trains on it; train on trn1, trn2 or a CPU, then "
        "`runner serve RUN hardware=inf2_8xlarge serve=vllm`"
    )


def test_a_trainer_for_cpus_on_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINERS, "torch", CPUTrainer())
    [problem] = releases.problems(compose("quickstart", ["hardware=trn2", "serve=none"]).recipe)
    assert problem == "train=torch_lora: trains on a CPU; try hardware=cpu, or train=torch_lora"
