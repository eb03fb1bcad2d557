"""What a trainer tells the plan about itself."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from runner.compose.schema import Architecture, Recipe, Sdk, Train
from runner.plan import initial_adapter
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand, flags, not_fingerprinted

# Keys of `train` that are not flags of every trainer.
_EVALUATION = ("eval_every", "keep", "early_stopping_patience", "early_stopping_threshold")
_NOT_COMMON = (
    "backend", "lora", "nxd", "compile_cache", "checkpoint_every", "attention", "init_adapter", *_EVALUATION
)  # fmt: skip
# Keys of `train` and `train.lora` on which the compiled programs depend, and what of their values matters. All other
# keys are inputs of the programs, or decide how often they run (`make test-xla`).
_COMPILED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("batch_size", "dtype", "gradient_checkpointing", "rank", "targets"), lambda value: value),
    "accumulate": lambda count: min(count, 2),  # the second micro-batch adds to a gradient, as all later ones do
    "dropout": bool,
}


@dataclass(frozen=True)
class ActivationMemory:
    """Which activations a trainer keeps for the backward pass; `runner.plan.checks.memory` computes bytes from it.

    - `scores`: the share of the square of attention scores that is materialized.
    - `recomputes`: "layer", or "attention" for attention and MLP activation only, or "" for nothing.
    - `sequence_parallel`: whether the ranks share the activations between the layers.
    - `loss_rows`: the rows whose logits exist at the same time; None for all.
    """

    scores: float = 1.0
    recomputes: str = ""
    sequence_parallel: bool = False
    loss_rows: int | None = None


class Trainer(ABC):
    """A LoRA trainer: `name` is its value of `train.backend`, `option` the file in configs/train that selects it.

    `devices` are the values of `hardware.device` that it trains on. `data_parallel` says whether it trains several
    copies of the model (`parallel.dp_size`), `reads_shards` whether the model is converted to shards for it,
    `pads_vocabulary` whether it takes a vocabulary that `parallel.tp_size` does not divide.
    """

    name: ClassVar[str]
    option: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("neuron",)
    data_parallel: ClassVar[bool] = True
    reads_shards: ClassVar[bool] = True
    pads_vocabulary: ClassVar[bool] = True

    @abstractmethod
    def command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand:
        """The command that trains."""

    @abstractmethod
    def activation_memory(self, recipe: Recipe) -> ActivationMemory:
        """Which activations it keeps for this recipe."""

    def modelling_command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
        """The command that gets modelling code from outside; None for a trainer that needs none."""
        return None

    def compile_command(self, recipe: Recipe, artifacts: Artifacts) -> StageCommand | None:
        """The command that compiles the training ahead; None where the training compiles as it goes."""
        return None

    def missing_code(self, recipe: Recipe, sdk: Sdk) -> str | None:
        """Why there is no modelling code for a release; None if there is, or if none is needed."""
        return None

    def problems(self, recipe: Recipe) -> Iterator[str]:
        """Reasons why this trainer cannot train the recipe, whatever the model; a line each."""
        yield from ()

    def model_problems(self, recipe: Recipe, architecture: Architecture) -> Iterator[str]:
        """Reasons why this trainer cannot train a model of these shapes; a line each."""
        yield from ()

    def cannot_continue(self, shares_lora_a: bool | None) -> str | None:
        """Why it cannot continue an adapter, whose q, k and v (and gate and up) share one lora_A, do not, or may."""
        return None

    def memory_savers(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Overrides that save memory and keep the result, the cheapest first; larger changes build on the last."""
        return [{"train.gradient_checkpointing": True}]


def nxd_lnc_problems(recipe: Recipe) -> Iterator[str]:
    """neuronx-distributed groups the ranks of trn2 for LNC=2, whatever is set (get_platform_lnc)."""
    if recipe.hardware.lnc == 1:
        yield (
            "hardware.lnc: neuronx-distributed, which train=nxd_lora and train=optimum_lora use, trains on trn2 with "
            "LNC=2 only; set hardware.lnc=2, or try train=torch_lora with sdk=neuron_2_33"
        )


def recomputed_layer(train: Train) -> str:
    """`ActivationMemory.recomputes` as `train.gradient_checkpointing` has it."""
    return "layer" if train.gradient_checkpointing else ""


def initial_adapter_flags(recipe: Recipe, artifacts: Artifacts) -> list[str | Argument]:
    """The flag with the adapter to continue. Its content counts for the fingerprint."""
    if not recipe.train.init_adapter:
        return []
    folder = initial_adapter.folder(recipe).resolve()
    return ["--init-adapter", artifacts.external(str(folder), initial_adapter.KEY)]


def common_flags(train: Train, compiling: bool = False) -> list[str | Argument]:
    """The flags that every trainer takes: schedule, adapter, checkpoints and output.

    For a command that is only `compiling`, those that decide which programs there are count for the fingerprint.
    """
    settings = {name: value for name, value in dataclasses.asdict(train).items() if name not in _NOT_COMMON}
    settings |= dataclasses.asdict(train.lora)
    compiled = (part for name, value in settings.items() for part in _compiled_flag(name, value))
    return [
        *(compiled if compiling else flags(**settings)),
        *not_fingerprinted("--checkpoint-every", str(train.checkpoint_every)),
        "--output", OUTPUT,
    ]  # fmt: skip


def evaluation_flags(train: Train) -> list[str]:
    """The flags of evaluations while training; none by default."""
    return flags(**{name: getattr(train, name) for name in _EVALUATION}) if train.eval_every else []


def _compiled_flag(name: str, value: Any) -> list[str | Argument]:
    first, *rest = not_fingerprinted(*flags(**{name: value}))
    matters = f"{name}: {_COMPILED[name](value)}" if name in _COMPILED else ""
    return [Argument(first.text, matters), *rest]
