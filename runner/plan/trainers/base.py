"""What each training back end runs on and needs, and what Neuron release has it: one row a back end."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from runner.compose.recipe import CONFIGS
from runner.compose.schema import NXD_RELEASES, Hardware, Recipe, Sdk
from runner.compose.validate import build


@dataclass(frozen=True)
class Backend:
    """`option` is its name as `train=`; `copies`: whether several copies of the model can share the data."""

    option: str
    devices: tuple[str, ...]
    copies: bool


BACKENDS = {
    "torch": Backend("torch_lora", ("cpu", "neuron"), copies=False),
    "nxd": Backend("nxd_lora", ("neuron",), copies=True),
    "optimum": Backend("optimum_lora", ("neuron",), copies=True),
}
_NOT_VLLM = ("embedded", "none")


def family(hardware: Hardware) -> str:
    """The generation of the hardware: cpu, trn1 or trn2.

    >>> family(Hardware(name="trn2.48xlarge", device="neuron"))
    'trn2'
    """
    if hardware.device == "cpu":
        return "cpu"
    named = re.match(r"trn\d", hardware.name)
    return named.group() if named else hardware.layout


def merged(recipe: Recipe) -> bool:
    """Whether the model is served with the adapter merged in: that vLLM takes no adapters."""
    return recipe.serve.engine == "vllm" and not recipe.sdk.vllm_lora


def problems(recipe: Recipe) -> Iterator[str]:
    """Why this back end, this hardware and this SDK do not go together, and what to choose."""
    hardware, kind = recipe.hardware, family(recipe.hardware)
    backend = BACKENDS[recipe.train.backend]
    if kind != "cpu" and hardware.layout != kind:
        yield f"hardware.layout: {hardware.layout} shards train wrongly on {hardware.name}; leave it {kind}"
    if hardware.device not in backend.devices:
        yield f"train={backend.option}: trains on Neuron; say hardware=trn1 or hardware=trn2, or train=torch_lora"
    else:
        missing = [*_not_trained(recipe, recipe.sdk), *_not_served(recipe, recipe.sdk)]
        if missing:
            yield f"sdk: {recipe.sdk.name} {' and '.join(missing)}; {advice(recipe)}"
    if recipe.parallel.dp_size > 1 and not backend.copies:
        yield (
            f"parallel.dp_size: {backend.option} trains one copy of the model, not {recipe.parallel.dp_size}; "
            f"say parallel.dp_size=1 train.accumulate={recipe.parallel.dp_size * recipe.train.accumulate}"
        )


def advice(recipe: Recipe) -> str:
    """What to choose: the releases that do all that the recipe asks of one, else another trainer that one has."""
    fitting = _fitting(recipe)
    if fitting:
        return f"choose {' or '.join(f'sdk={name}' for name in fitting)}"
    for name, backend in BACKENDS.items():
        other = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, backend=name))
        if recipe.hardware.device in backend.devices and _fitting(other):
            return f"no release has that: take train={backend.option} with sdk={_fitting(other)[-1]}"
    return "no release has that: say serve=none"


def _fitting(recipe: Recipe) -> list[str]:
    """The profiles with which nothing is missing, the modelling code that NxD's trainer needs included."""
    nxd = recipe.train.backend == "nxd" and not recipe.train.nxd.release
    return [
        name for name, sdk in _releases()
        if not [*_not_trained(recipe, sdk), *_not_served(recipe, sdk)] and not (nxd and sdk.name not in NXD_RELEASES)
    ]  # fmt: skip


def _not_trained(recipe: Recipe, sdk: Sdk) -> Iterator[str]:
    backend, kind = recipe.train.backend, family(recipe.hardware)
    if backend not in sdk.trains or kind not in sdk.trains_on:
        on = f" on {_names(sdk.trains_on)}" if sdk.trains_on else ""
        yield f"trains {_names(sdk.trains)}{on}, not {backend} on {kind}"


def _not_served(recipe: Recipe, sdk: Sdk) -> Iterator[str]:
    kind = family(recipe.hardware)
    if recipe.serve.engine not in _NOT_VLLM and kind not in sdk.serves_on:
        yield f"serves on {_names(sdk.serves_on)}, not on {kind}"


def _names(words: list[str]) -> str:
    return " and ".join(words) or "nothing"


def _releases() -> Iterator[tuple[str, Sdk]]:
    """Every profile in configs/sdk by its option; not those that only stand for another."""
    for path in sorted((CONFIGS / "sdk").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "defaults" not in values:
            yield path.stem, build(Sdk, values)
