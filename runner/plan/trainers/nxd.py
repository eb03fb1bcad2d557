"""Shards + tokens → a sharded LoRA adapter, with neuronx-distributed on NeuronCores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from runner.compose.schema import NXD_RELEASES, Architecture, Recipe, Sdk
from runner.plan import packages
from runner.plan.command import (
    MASTER_PORT,
    OUTPUT,
    Argument,
    Artifacts,
    StageCommand,
    compile_cache,
    flags,
    launcher,
    not_fingerprinted,
    shared_compile_cache,
)
from runner.plan.trainers.base import (
    ActivationMemory,
    Trainer,
    common_flags,
    evaluation_flags,
    initial_adapter_flags,
    nxd_lnc_problems,
    recomputed_layer,
)

_PROGRAM = "train_nxd.py"
_ROOT_PORT = 48620  # of the Neuron runtime's collectives
_FLAGS = ("sequence_parallel", "selective_checkpointing", "zero1")


class NxdTrainer(Trainer):
    """train_nxd.py: neuronx-distributed with the modelling code of its examples, on one or several machines."""

    name, option = "nxd", "nxd_lora"

    def command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand:
        cores, nodes = _processes(recipe), recipe.parallel.nodes
        return StageCommand(
            f"train LoRA of rank {recipe.train.lora.rank} on {cores * nodes} cores",
            _PROGRAM,
            [*_training_flags(recipe, artifacts), *evaluation_flags(recipe.train)],
            processes=cores,
            nodes=nodes,
            env=_environment(recipe, artifacts),
            resumable=True,
            cores=cores,
            packages={artifacts.place.python: recipe.sdk.train_packages},
            ports=[_ROOT_PORT, *([MASTER_PORT] if nodes > 1 else [])],
        )

    def modelling_command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand:
        nxd, release = recipe.train.nxd, _release(recipe, recipe.sdk)
        folder = ["--folder", artifacts.external(nxd.source, "train.nxd.source")] if nxd.source else []
        args = [*flags(release=release), *folder, "--output", OUTPUT]
        return StageCommand(f"get the modelling code of Neuron SDK {release}", "fetch_nxd_model.py", args)

    def compile_command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
        if not recipe.train.nxd.compile:
            return None
        cores, nodes = _processes(recipe), recipe.parallel.nodes
        python, program = artifacts.program(_PROGRAM)
        cache = Argument(compile_cache(recipe, artifacts.place), shared_compile_cache(recipe))
        start, *launch = launcher(python.text, cores, nodes)
        machine = f"{cores} cores of {recipe.hardware.name}, SDK {recipe.sdk.name}"
        args: list[str | Argument] = [
            "--cache", cache,  # if the recipe names another one, it has to be filled too
            "--output", OUTPUT,
            "--", Argument(start, machine), *not_fingerprinted(*launch), program,
            *_training_flags(recipe, artifacts, compiling=True),
        ]  # fmt: skip
        return StageCommand(
            "compile the training's programs",
            "compile_nxd.py",
            args,
            nodes=nodes,
            env=_environment(recipe, artifacts),
            cores=cores,
            packages={python.text: [*packages.needed(_PROGRAM), *recipe.sdk.train_packages]},
        )

    def missing_code(self, recipe: Recipe, sdk: Sdk) -> str | None:
        release = _release(recipe, sdk)
        if release in NXD_RELEASES:
            return None
        return (
            f"train.nxd.release: no modelling code is known for SDK {release} (sdk.name); name that of another "
            f"release, such as train.nxd.release={NXD_RELEASES[-1]}"
        )

    def activation_memory(self, recipe: Recipe) -> ActivationMemory:
        nxd = recipe.train.nxd
        selective = "attention" if nxd.selective_checkpointing else ""
        return ActivationMemory(
            recomputes=recomputed_layer(recipe.train) or selective, sequence_parallel=nxd.sequence_parallel
        )

    def problems(self, recipe: Recipe) -> Iterator[str]:
        yield from nxd_lnc_problems(recipe)

    def model_problems(self, recipe: Recipe, architecture: Architecture) -> Iterator[str]:
        if architecture.head_width * architecture.num_attention_heads != architecture.hidden_size:
            yield (
                f"train.backend: NxD's Llama needs heads of hidden_size / num_attention_heads elements, those of "
                f"{recipe.model.name} have {architecture.head_width}; train it with train=torch_lora"
            )
        if recipe.train.nxd.sequence_parallel and not _can_share_sequence(recipe):
            yield (
                f"dataset.seq_len: {recipe.dataset.seq_len} is not a multiple of tp_size {recipe.parallel.tp_size}, "
                "which train.nxd.sequence_parallel needs; try another length, or train.nxd.sequence_parallel=false"
            )

    def cannot_continue(self, shares_lora_a: bool | None) -> str | None:
        if shares_lora_a is not False:  # where it is not known, the training checks it
            return None
        return (
            "NxD trains one lora_A for q, k and v, and one for gate and up, but this adapter has one for each; "
            "continue it with train=torch_lora"
        )

    def memory_savers(self, recipe: Recipe) -> list[dict[str, Any]]:
        selective, shared = {"train.nxd.selective_checkpointing": True}, {"train.nxd.sequence_parallel": True}
        whole = {"train.gradient_checkpointing": True, **(shared if _can_share_sequence(recipe) else {})}
        return [selective, shared, selective | shared, whole]


def _processes(recipe: Recipe) -> int:
    """Processes on each machine, one for each NeuronCore."""
    return recipe.parallel.tp_size * recipe.parallel.dp_size


def _release(recipe: Recipe, sdk: Sdk) -> str:
    """The release whose modelling code is trained: the one that the recipe names, or that of the SDK."""
    return recipe.train.nxd.release or sdk.name


def _can_share_sequence(recipe: Recipe) -> bool:
    return recipe.dataset.seq_len % recipe.parallel.tp_size == 0


def _training_flags(recipe: Recipe, artifacts: Artifacts, compiling: bool = False) -> list[str | Argument]:
    """The flags of train_nxd.py, which the compilation starts with too: of the data, it only uses the length."""
    nxd = dataclasses.asdict(recipe.train.nxd)
    nxd["selective_checkpointing"] &= not recipe.train.gradient_checkpointing  # which recomputes those parts too
    data, initial = artifacts.path("tokenize"), initial_adapter_flags(recipe, artifacts)
    if compiling:
        data = Argument(data.text, f"sequences of {recipe.dataset.seq_len}")
        initial = not_fingerprinted(*(part if isinstance(part, str) else part.text for part in initial))
    return [
        "--shards", artifacts.path("convert"),
        "--data", data,
        *flags(**{name: nxd[name] for name in _FLAGS}),
        "--model-code", artifacts.path("modelling"),
        *initial,
        *common_flags(recipe.train, compiling),
    ]  # fmt: skip


def _environment(recipe: Recipe, artifacts: Artifacts) -> dict[str, str | Argument]:
    """The variables of the Neuron runtime and compiler, as AWS's launch script of this training sets them.

    Not XLA_USE_BF16 and XLA_DOWNCAST_BF16, which torch-xla 2.8 drops: --dtype sets the model's dtype directly.
    """
    nxd, cores = recipe.train.nxd, str(_processes(recipe))
    efa = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1"}
    root = {"NEURON_RT_ROOT_COMM_ID": f"localhost:{_ROOT_PORT}"}  # on several nodes train_nxd.py names the first one
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
        **(efa if recipe.parallel.nodes > 1 else root),
    }
