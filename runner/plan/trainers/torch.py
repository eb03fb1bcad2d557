"""Shards + tokens → a sharded LoRA adapter, in plain PyTorch: on CPU ranks, or on NeuronCores by its native device."""

from __future__ import annotations

from runner.compose.schema import Recipe
from runner.plan.command import Argument, Artifacts, StageCommand, flags
from runner.plan.trainers import options as train_settings


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    ranks, nodes, neuron = recipe.parallel.tp_size, recipe.parallel.nodes, recipe.hardware.device == "neuron"
    words: list[str | Argument] = [
        "--shards", artifacts.path("convert"),
        "--data", artifacts.path("tokenize"),
        *flags(device="neuron" if neuron else None),
        *train_settings.words(recipe.train),
    ]  # fmt: skip
    title = f"train LoRA of rank {recipe.train.lora.rank} on {ranks} {'core' if neuron else 'rank'}(s)"
    here = ranks // nodes
    env = _on_neuron(artifacts) if neuron else _on_cpu(ranks)
    return StageCommand(
        title, "train_torch.py", words, processes=here, nodes=nodes, env=env, resumable=True, cores=here,
        packages={artifacts.place.python: recipe.sdk.train_packages},
    )  # fmt: skip


def _on_cpu(ranks: int) -> dict[str, str | Argument]:
    """A rank that waits for another must not spin on the core that the other needs."""
    return {"OMP_WAIT_POLICY": "PASSIVE"} if ranks > 1 else {}


def _on_neuron(artifacts: Artifacts) -> dict[str, str | Argument]:
    """Compiled programs are kept for all runs; by default they lie in /tmp."""
    cache = artifacts.place.store / "neuron-cache" / "native"
    return {"TORCH_NEURONX_NEFF_CACHE_DIR": str(cache), "MALLOC_ARENA_MAX": "64"}
