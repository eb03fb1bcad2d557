"""How train_nxd.py is started: what its training and the compilation for it have in common."""

from __future__ import annotations

import dataclasses

from runner.compose.schema import Recipe
from runner.plan.command import MASTER_PORT, Argument, Artifacts, compile_cache, flags
from runner.plan.trainers import options as train_settings

ROOT_PORT = 48620  # of the Neuron runtime's collectives
_FLAGS = ("sequence_parallel", "selective_checkpointing", "zero1")


def processes(recipe: Recipe) -> int:
    """Processes on each machine, one a NeuronCore."""
    return recipe.parallel.tp_size * recipe.parallel.dp_size


def ports(recipe: Recipe) -> list[int]:
    """What the training listens on: the collectives of the runtime, and torchrun where several nodes meet."""
    return [ROOT_PORT, *([MASTER_PORT] if recipe.parallel.nodes > 1 else [])]


def training_flags(recipe: Recipe, artifacts: Artifacts) -> list[str | Argument]:
    """The flags of train_nxd.py."""
    nxd = dataclasses.asdict(recipe.train.nxd)
    nxd["selective_checkpointing"] &= not recipe.train.gradient_checkpointing  # which recomputes those parts too
    return [
        "--shards", artifacts.path("convert"),
        "--data", artifacts.path("tokenize"),
        *flags(**{name: nxd[name] for name in _FLAGS}),
        "--model-code", artifacts.path("modelling"),
        *train_settings.words(recipe.train),
    ]  # fmt: skip


def environment(recipe: Recipe, artifacts: Artifacts) -> dict[str, str | Argument]:
    """What the Neuron runtime and compiler read, as AWS's launch script of this training sets it.

    Not XLA_USE_BF16 and XLA_DOWNCAST_BF16, which end with torch-xla 2.8: --dtype says it to the model itself.
    """
    nxd, cores = recipe.train.nxd, str(processes(recipe))
    several = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1"}
    root = {"NEURON_RT_ROOT_COMM_ID": f"localhost:{ROOT_PORT}"}  # of several nodes train_nxd.py names the first
    return {
        "NEURON_CC_FLAGS": Argument(nxd.compiler_flags, nxd.compiler_flags),
        "NEURON_COMPILE_CACHE_URL": compile_cache(recipe, artifacts.place),
        "NEURON_FUSE_SOFTMAX": "1",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": Argument(*[str(int(nxd.stochastic_rounding))] * 2),
        "NEURON_RT_NUM_CORES": cores,
        "NUM_NEURONCORES": cores,
        "TPU_NUM_DEVICES": cores,
        "TPU_CHIPS_PER_HOST_BOUNDS": cores,
        "MALLOC_ARENA_MAX": "64",
        **({"NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": str(recipe.sdk.async_exec)} if recipe.sdk.async_exec else {}),
        **(several if recipe.parallel.nodes > 1 else root),
    }
