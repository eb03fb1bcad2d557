"""Checks the config.json of a local model as the stage programs do, before any work.

Both read scripts/common/formats/model_config.json, which lists what is supported;
scripts/common/formats/model_config.py explains it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runner.compose.schema import Architecture
from runner.compose.validate import InvalidKey, build, keys
from runner.errors import RecipeError
from runner.paths import SCRIPTS
from runner.plan.checks import json_file

Config = dict[str, Any]


def read(folder: Path, key: str) -> Config:
    """The keys that config.json sets, with the defaults of transformers for the model's type.

    Raises RecipeError, with the recipe's `key`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RecipeError(f"{key}: {path}: no such file; {key} must be a Hugging Face folder")
    config = json_file.read(path, key)
    kind = config.get("model_type")
    absent = family(kind).get("absent", {})
    return {name: value for name, value in {**absent, **config}.items() if value is not None}


def architecture(folder: Path, key: str) -> Architecture:
    """The shapes of a local model. Raises RecipeError, with the recipe's `key`."""
    config = read(folder, key)
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))  # Llama 1 does not have the key
    fields = {name: field for name, field, _ in keys(Architecture)}
    for name, field in fields.items():
        if config.get(name) is None and field.default is not None:
            raise RecipeError(f"{key}: {folder / 'config.json'}: {name} is missing")
    try:
        shapes = build(Architecture, {name: config.get(name) for name in fields})
    except InvalidKey as error:
        raise RecipeError(f"{key}: {folder / 'config.json'}: {error}") from None
    heads, groups = shapes.num_attention_heads, shapes.num_key_value_heads
    if heads % groups:
        raise RecipeError(
            f"{key}: {folder / 'config.json'}: num_key_value_heads {groups} does not divide num_attention_heads {heads}"
        )
    return shapes


def problems(config: Config, trainer: str) -> Iterator[str]:
    """The reasons why `trainer` cannot train this model exactly; a line each."""
    kind = config.get("model_type")
    if not family(kind):
        yield f"model_type {kind!r} is not supported, only {', '.join(supported()['families'])}"
        return
    yield from trainer_problems(kind, trainer)
    yield from _unsupported(config, supported()["always"])
    if trainer not in family(kind).get("unchecked", []):
        numbers = [*family(kind).get("windows", []), *family(kind).get("multipliers", [])]
        values = {"architectures": family(kind)["architectures"], **supported()["values"]}
        honored = {*numbers, *family(kind).get("ignored", [])}
        yield from _unsupported(config, {name: known for name, known in values.items() if name not in honored})
        yield from _not_positive(config, [*supported()["numbers"], *numbers])
        yield from _rope_problems(config)


def trainer_problems(model_type: Any, trainer: str) -> Iterator[str]:
    """Why `trainer` cannot train any model of the family `model_type`: a line, or nothing."""
    trainers = family(model_type)["trainers"]
    if trainer not in trainers:
        yield f"model_type {model_type!r} is not supported by the trainer {trainer}, only by {', '.join(trainers)}"


def attention_window(config: Config) -> int | None:
    """The number of tokens that a token attends to, itself included; None without a limit."""
    windows = [config.get(name) for name in family(config.get("model_type")).get("windows", [])]
    return min((length for length in windows if isinstance(length, int)), default=None)


def family(model_type: Any) -> dict[str, Any]:
    """The entry of a family in model_config.json; empty if it is not there."""
    return supported()["families"].get(model_type, {}) if isinstance(model_type, str) else {}


@cache
def supported() -> dict[str, Any]:
    """The content of model_config.json."""
    return json.loads((SCRIPTS / "common" / "formats" / "model_config.json").read_text(encoding="utf-8"))


def _unsupported(config: Mapping[str, Any], values: Mapping[str, list[Any]], prefix: str = "") -> Iterator[str]:
    for key, known in values.items():
        given = config.get(key)
        elements = given if isinstance(given, list) else [given]
        if any(element not in known for element in elements if element is not None):
            yield f"{prefix}{key} {_shown(given)} is not supported, only {', '.join(map(json.dumps, known or [None]))}"


def _not_positive(config: Mapping[str, Any], names: list[str], prefix: str = "") -> Iterator[str]:
    for key in names:
        value = config.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            yield f"{prefix}{key} must be a number above 0, it is {_shown(value)}"


def _rope_problems(config: Config) -> Iterator[str]:
    for spelling in ("rope_scaling", "rope_parameters"):
        given = config.get(spelling, {})
        if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
            yield f"{spelling} {_shown(given)} is not supported, only one set of parameters for all layers"
            return
    spelling = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    parameters, types = config.get(spelling, {}), supported()["rope_types"]
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if not isinstance(kind, str) or kind not in types:
        yield f"{spelling}: rope_type {_shown(kind)} is not supported, only {', '.join(types)}"
        return
    yield from _unsupported(parameters, {"partial_rotary_factor": [1]}, f"{spelling}: ")
    needed = {"rope_theta": parameters.get("rope_theta") or 1} | {key: parameters.get(key) for key in types[kind]}
    yield from _not_positive(needed, list(needed), f"{spelling}: ")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
