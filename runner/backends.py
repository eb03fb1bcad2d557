"""What each training back end runs on and needs, and what Neuron release has it: one row a back end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from runner.compose import CONFIGS
from runner.schema import Hardware, Recipe, Sdk
from runner.validate import build


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


def problems(recipe: Recipe) -> Iterator[str]:
    """Why this back end, this hardware and this SDK do not go together, and what to choose."""
    hardware, kind = recipe.hardware, family(recipe.hardware)
    backend = BACKENDS[recipe.train.backend]
    if kind != "cpu" and hardware.layout != kind:
        yield f"hardware.layout: {hardware.layout} shards train wrongly on {hardware.name}; leave it {kind}"
    if hardware.device not in backend.devices:
        yield f"train={backend.option}: trains on Neuron; say hardware=trn1 or trn2, or train=torch_lora on a CPU"
    elif recipe.train.backend not in recipe.sdk.trains or kind not in recipe.sdk.trains_on:
        has = " and ".join(recipe.sdk.trains) or "nothing"
        yield (
            f"sdk: {recipe.sdk.name} trains {_on(has, recipe.sdk.trains_on)}, not {recipe.train.backend} on {kind}; "
            f"{_choose(_training(recipe))}"
        )
    if recipe.serve.engine not in _NOT_VLLM and kind not in recipe.sdk.serves_on:
        served = _names(recipe.sdk.serves_on)
        yield f"sdk: {recipe.sdk.name} serves on {served}, not on {kind}; {_choose(_serving(kind))}"
    if recipe.parallel.dp_size > 1 and not backend.copies:
        yield (
            f"parallel.dp_size: {backend.option} trains one copy of the model, not {recipe.parallel.dp_size}; "
            f"say parallel.dp_size=1 train.accumulate={recipe.parallel.dp_size * recipe.train.accumulate}"
        )


def _on(what: str, families: list[str]) -> str:
    return f"{what} on {_names(families)}" if families else what


def _names(words: list[str]) -> str:
    return " and ".join(words) or "nothing"


def _choose(options: list[str]) -> str:
    return f"choose sdk={' or '.join(options)}" if options else "no release of sdk has that"


def _training(recipe: Recipe) -> list[str]:
    kind = family(recipe.hardware)
    return [name for name, sdk in _releases() if recipe.train.backend in sdk.trains and kind in sdk.trains_on]


def _serving(kind: str) -> list[str]:
    return [name for name, sdk in _releases() if kind in sdk.serves_on]


def _releases() -> Iterator[tuple[str, Sdk]]:
    """Every profile in configs/sdk by its option; not those that only stand for another."""
    for path in sorted((CONFIGS / "sdk").glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "defaults" not in values:
            yield path.stem, build(Sdk, values)
