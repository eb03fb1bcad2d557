"""Which models the trainers compute exactly as transformers does, told from config.json.

Whatever in it changes the arithmetic is honoured or refused; model_config.json lists both, and the runner reads the
same list for a model that lies in a folder. There `llama_values` gives, for each key, the values that our Llama
computes; null, which means that a key is not set, is always one of them. A key that is not listed changes nothing in
transformers' Llama.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.files import read_json
from common.program import BadInput

SUPPORTED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
TRAINERS = tuple(dict.fromkeys(name for names in SUPPORTED["trainers"].values() for name in names))
_THETA = 10000.0  # transformers' rope_theta where a config names none

Config = dict[str, Any]


def read(folder: Path, trainer: str | None = None) -> Config:
    """The keys of `folder`/config.json that are set, and those that transformers assumes for the model's type.

    Raises BadInput for a model that `trainer` (None: every trainer) would not compute exactly.
    """
    path = folder / "config.json"
    config = read_json(path)
    for problem in problems(config, trainer):
        raise BadInput(f"{path}: {problem}")
    return _as_read(config)


def problems(config: Config, trainer: str | None = None) -> Iterator[str]:
    """Why a trainer would not compute this model exactly, a line each."""
    kind = config.get("model_type")
    trainers = SUPPORTED["trainers"].get(kind) if isinstance(kind, str) else None
    if trainers is None:
        yield f"model_type {kind!r} is not supported, only {', '.join(SUPPORTED['trainers'])}"
        return
    if trainer not in (None, *trainers):
        yield f"model_type {kind!r} is not supported by the trainer {trainer}, only by {', '.join(trainers)}"
    config = _as_read(config)
    yield from _unsupported(config, SUPPORTED["values"])
    if "torch" in trainers:  # what our own Llama computes
        yield from _unsupported(config, SUPPORTED["llama_values"])
        yield from _not_positive(config, SUPPORTED["llama_numbers"])
        yield from _rope_problems(config)


def rope(config: Mapping[str, Any]) -> Config:
    """The rotary parameters, rope_type and rope_theta among them, of a config of transformers 4 or 5.

    Of both spellings transformers 5 takes rope_scaling.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = given.get("rope_theta") or config.get("rope_theta") or _THETA
    return {**given, "rope_type": given.get("rope_type") or given.get("type") or "default", "rope_theta": theta}


def with_old_names(config: Config) -> Config:
    """The config with rope_theta, rope_scaling and torch_dtype, where transformers 4 looks for them.

    Transformers 5 saves them as rope_parameters and dtype, which 4 ignores without a word: it would compute with other
    positions. Transformers 5 reads the old names too.
    """
    wanted = rope(config)
    scaling = {key: value for key, value in wanted.items() if key != "rope_theta"}
    old = {"rope_theta": wanted["rope_theta"]}
    if scaling["rope_type"] != "default":
        old["rope_scaling"] = config.get("rope_scaling") or scaling
    if "dtype" in config:
        old["torch_dtype"] = config["dtype"]
    read_by_old = {"rope_theta": _THETA, **config}
    return config if all(read_by_old.get(key) == value for key, value in old.items()) else {**config, **old}


def _as_read(config: Config) -> Config:
    absent = SUPPORTED["absent"].get(config["model_type"], {})
    return {key: value for key, value in {**absent, **config}.items() if value is not None}


def _unsupported(config: Mapping[str, Any], supported: Mapping[str, list[Any]], inside: str = "") -> Iterator[str]:
    """Of a list, every element must be supported."""
    for key, values in supported.items():
        given = config.get(key)
        elements = given if isinstance(given, list) else [given]
        if any(element not in values for element in elements if element is not None):
            yield f"{inside}{key} {_shown(given)} is not supported, only {', '.join(map(json.dumps, values or [None]))}"


def _not_positive(config: Mapping[str, Any], keys: list[str], inside: str = "") -> Iterator[str]:
    for key in keys:
        value = config.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            yield f"{inside}{key} must be a number above 0, it is {_shown(value)}"


def _rope_problems(config: Config) -> Iterator[str]:
    for spelling in ("rope_scaling", "rope_parameters"):
        given = config.get(spelling, {})
        if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
            yield f"{spelling} {_shown(given)} is not supported, only one set of parameters for all layers"
            return
    inside = "rope_scaling: " if config.get("rope_scaling") else "rope_parameters: "
    parameters, types = rope(config), SUPPORTED["llama_rope_types"]
    kind = parameters["rope_type"]
    if not isinstance(kind, str) or kind not in types:
        yield f"{inside}rope_type {_shown(kind)} is not supported, only {', '.join(types)}"
        return
    yield from _unsupported(parameters, {"partial_rotary_factor": [1]}, inside)
    needed = {key: parameters.get(key) for key in ("rope_theta", *types[kind])}
    yield from _not_positive(needed, list(needed), inside)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
