"""Shards + tokens → a sharded LoRA adapter, in plain PyTorch: on CPU ranks, or on NeuronCores by its native device."""

from __future__ import annotations

from collections.abc import Iterator

from runner.compose.schema import Recipe
from runner.plan.command import Argument, Artifacts, StageCommand, flags
from runner.plan.trainers.base import (
    ActivationMemory,
    Trainer,
    common_flags,
    evaluation_flags,
    initial_adapter_flags,
    recomputed_layer,
)


class TorchTrainer(Trainer):
    """train_torch.py: tensor-parallel over CPU ranks or NeuronCores, with one copy of the model."""

    name, option = "torch", "torch_lora"
    devices = ("cpu", "neuron")
    data_parallel = False

    def command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand:
        ranks, nodes = recipe.parallel.tp_size, recipe.parallel.nodes
        ranks_per_node = ranks // nodes
        unit = "core" if _on_neuron(recipe) else "rank"
        args: list[str | Argument] = [
            "--shards", artifacts.path("convert"),
            "--data", artifacts.path("tokenize"),
            *flags(device="neuron" if _on_neuron(recipe) else None),
            *initial_adapter_flags(recipe, artifacts),
            *common_flags(recipe.train),
            *evaluation_flags(recipe.train),
        ]  # fmt: skip
        return StageCommand(
            f"train LoRA of rank {recipe.train.lora.rank} on {ranks} {unit}{'s' * (ranks > 1)}",
            "train_torch.py",
            args,
            processes=ranks_per_node,
            nodes=nodes,
            env=_neuron_environment(artifacts) if _on_neuron(recipe) else _cpu_environment(ranks),
            resumable=True,
            cores=ranks_per_node,
            packages={artifacts.place.python: recipe.sdk.train_packages},
        )

    def activation_memory(self, recipe: Recipe) -> ActivationMemory:
        recomputes = recomputed_layer(recipe.train)
        if _on_neuron(recipe):
            return ActivationMemory(recomputes=recomputes)
        return ActivationMemory(scores=0.5, recomputes=recomputes, loss_rows=1024)

    def problems(self, recipe: Recipe) -> Iterator[str]:
        nodes, tp_size = recipe.parallel.nodes, recipe.parallel.tp_size
        if nodes > 1 and _on_neuron(recipe):
            yield "parallel.nodes: train=torch_lora on Neuron trains on one machine; set parallel.nodes=1"
        elif tp_size % nodes:
            yield f"parallel.nodes: {nodes} machines cannot share the {tp_size} ranks of parallel.tp_size equally"


def _on_neuron(recipe: Recipe) -> bool:
    return recipe.hardware.device == "neuron"


def _cpu_environment(ranks: int) -> dict[str, str | Argument]:
    """A rank that waits for another must not spin on the CPU core that the other one needs."""
    return {"OMP_WAIT_POLICY": "PASSIVE"} if ranks > 1 else {}


def _neuron_environment(artifacts: Artifacts) -> dict[str, str | Argument]:
    """Compiled programs are kept for all runs; the default folder is in /tmp."""
    cache = artifacts.place.store / "neuron-cache" / "native"
    return {"TORCH_NEURONX_NEFF_CACHE_DIR": str(cache), "MALLOC_ARENA_MAX": "64"}
