"""The plan of train=torch_lora, on CPU ranks and on NeuronCores."""

from __future__ import annotations

import pytest
from planned import arguments, command, recipe_of

from runner.plan.command import StageCommand
from runner.plan.trainers.torch import TorchTrainer

NEURON = ["hardware=trn3", "tp_size=2", "serve=none"]


def trained(*overrides: str) -> StageCommand:
    return command(TorchTrainer().command, *overrides, after="convert tokenize")


def test_ranks_share_the_cpus_and_do_not_spin() -> None:
    several, one = trained("tp_size=4"), trained("tp_size=1")
    assert (several.processes, several.env) == (4, {"OMP_WAIT_POLICY": "PASSIVE"})
    assert (one.processes, one.env) == (1, {})
    assert one.title.endswith("on 1 rank") and several.title.endswith("on 4 ranks")


def test_neuroncores_are_its_device_and_keep_what_they_compile() -> None:
    made = trained(*NEURON)
    args = arguments(made)
    assert args[args.index("--device") + 1] == "neuron"
    assert made.env["TORCH_NEURONX_NEFF_CACHE_DIR"] == "/store/neuron-cache/native"
    assert made.cores == 2 and "--device" not in arguments(trained())


def test_machines_share_the_ranks() -> None:
    made = trained("tp_size=4", "parallel.nodes=2")
    assert (made.processes, made.nodes) == (2, 2)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["tp_size=4", "parallel.nodes=3"], "3 machines cannot share the 4 ranks"),
        ([*NEURON, "parallel.nodes=2"], "trains on one machine; set parallel.nodes=1"),
    ],
)
def test_machines_that_cannot_train_together_are_a_problem(overrides: list[str], problem: str) -> None:
    [found] = TorchTrainer().problems(recipe_of(*overrides))
    assert problem in found
    assert list(TorchTrainer().problems(recipe_of("tp_size=4", "parallel.nodes=2"))) == []


def test_a_cpu_keeps_half_of_the_scores_and_the_logits_of_a_thousand_rows() -> None:
    cpu, neuron = (TorchTrainer().activation_memory(recipe_of(*overrides)) for overrides in ([], NEURON))
    assert (cpu.scores, cpu.loss_rows) == (0.5, 1024)
    assert (neuron.scores, neuron.loss_rows) == (1.0, None)
    recomputed = TorchTrainer().activation_memory(recipe_of("train.gradient_checkpointing=true"))
    assert (cpu.recomputes, recomputed.recomputes) == ("", "layer")
