"""Checks that the trainer, the hardware and the Neuron SDK release of a recipe are compatible."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import yaml

from runner.compose.schema import LAYOUTS, Hardware, Recipe, Sdk
from runner.compose.validate import build
from runner.paths import CONFIGS
from runner.plan.trainers import TRAINERS, trainer_of

_NOT_VLLM = ("embedded", "none")
# hardware.device: what people call it, and what to choose to have it.
_DEVICES = {"cpu": "a CPU; try hardware=cpu", "neuron": "Neuron; try hardware=trn1 or hardware=trn2"}


def family(hardware: Hardware) -> str:
    """The generation of the hardware: cpu, trn1, trn2, trn3 or inf2.

    >>> family(Hardware(name="trn2.48xlarge", device="neuron"))
    'trn2'
    """
    if hardware.device == "cpu":
        return "cpu"
    match = re.match(r"(trn|inf)\d", hardware.name)
    return match.group() if match else hardware.layout


def merged(recipe: Recipe) -> bool:
    """Whether vLLM serves the model with the adapter merged in, because its release serves no LoRA adapters."""
    return recipe.serve.engine == "vllm" and not recipe.sdk.vllm_lora


def problems(recipe: Recipe) -> Iterator[str]:
    """The reasons why the trainer, the hardware and the SDK are not compatible, and what to choose."""
    hardware, kind = recipe.hardware, family(recipe.hardware)
    trainer = trainer_of(recipe)
    if kind in LAYOUTS and hardware.layout != kind:
        yield f"hardware.layout: {hardware.layout} shards train wrongly on {hardware.name}; set hardware.layout={kind}"
    if hardware.device not in trainer.devices:
        [device] = trainer.devices  # of the two that there are
        yield f"train={trainer.option}: trains on {_DEVICES[device]}, or train=torch_lora"
    elif not any(kind in sdk.trains_on for _, sdk in profiles()):
        yield (
            f"hardware: {hardware.name} serves, but no release trains on it; train on trn1, trn2 or a CPU, then "
            f"`runner serve RUN hardware={hardware.name.replace('.', '_')} serve=vllm`"
        )
    else:
        missing = [*_not_trained(recipe, recipe.sdk), *not_served(recipe, recipe.sdk)]
        if missing:
            yield f"sdk: {recipe.sdk.name} {' and '.join(missing)}; {advice(recipe)}"
    if recipe.parallel.dp_size > 1 and not trainer.data_parallel:
        yield (
            f"parallel.dp_size: {trainer.option} trains one copy of the model, not {recipe.parallel.dp_size}; "
            f"try parallel.dp_size=1 train.accumulate={recipe.parallel.dp_size * recipe.train.accumulate}"
        )


def advice(recipe: Recipe) -> str:
    """Suggest a release that supports the recipe, or else another trainer with such a release."""
    found = fitting(recipe)
    if found:
        return f"choose {' or '.join(f'sdk={name}' for name in found)}"
    for name, trainer in TRAINERS.items():
        other = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, backend=name))
        if recipe.hardware.device in trainer.devices and fitting(other):
            return f"no release supports that: try train={trainer.option} with sdk={fitting(other)[-1]}"
    return "no release supports that: try serve=none"


def fitting(recipe: Recipe) -> list[str]:
    """The profiles that support the recipe and have the trainer's modelling code."""
    trainer = trainer_of(recipe)
    return [
        name
        for name, sdk in profiles()
        if not any((*_not_trained(recipe, sdk), *not_served(recipe, sdk), trainer.missing_code(recipe, sdk)))
    ]


def _not_trained(recipe: Recipe, sdk: Sdk) -> Iterator[str]:
    trainer, kind = recipe.train.backend, family(recipe.hardware)
    if trainer not in sdk.trains or kind not in sdk.trains_on:
        on = f" on {_names(sdk.trains_on)}" if sdk.trains_on else ""
        yield f"trains {_names(sdk.trains)}{on}, not {trainer} on {kind}"


def not_served(recipe: Recipe, sdk: Sdk) -> Iterator[str]:
    """Why a release does not serve on the recipe's hardware; nothing if it does."""
    kind = family(recipe.hardware)
    if recipe.serve.engine not in _NOT_VLLM and kind not in sdk.serves_on:
        yield f"serves on {_names(sdk.serves_on)}, not on {kind}"


def _names(names: list[str]) -> str:
    return " and ".join(names) or "nothing"


def profiles() -> Iterator[tuple[str, Sdk]]:
    """The option and the profile of every file in configs/sdk, except aliases."""
    for path in sorted((CONFIGS / "sdk").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "defaults" not in values:
            yield path.stem, build(Sdk, values)
