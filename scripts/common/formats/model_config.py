"""The model families that the trainers compute exactly as transformers does, and what their config.json may contain.

Every setting that changes the arithmetic is either honored or refused. model_config.json is the table; the runner reads
the same file. `families` has an entry for each `model_type`:

- trainers: the trainers that train the family
- architectures: the values of `architectures` with a language-model head
- absent: what transformers assumes for keys that are missing
- biases: the projections with a bias. They are column-parallel, and a bias is sharded like the rows of its weight.
- head_norms: the RMSNorms of each query and each key head, of head_dim elements, whole on every rank
- multipliers: the keys with a factor that the trainers apply, see `Multipliers`
- windows: the keys with the length of an attention window; no sequence may be longer
- ignored: the keys of `values` that transformers does not read for this family
- unchecked: the trainers that run the family's own code: of the lists below only `always` applies to them

`values` has, for each key that changes the arithmetic of some family, the values that change nothing; null, a key that
is not set, is always one of them. `numbers` must be positive, and `rope_types` has the keys that a type of rotary
positions needs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import read_json
from common.program import BadInput

SUPPORTED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
FAMILIES = SUPPORTED["families"]
TRAINERS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family["trainers"]))
_THETA = 10000.0  # transformers' rope_theta where a config names none

Config = dict[str, Any]


@dataclass(frozen=True)
class Multipliers:
    """Factors of the forward pass, as config.json names them; the defaults are those of a Llama.

    Attention scores are multiplied by `attention_multiplier` (None: 1 / sqrt(head_dim)), embeddings by
    `embedding_multiplier`, what a block adds to the hidden states by `residual_multiplier`. Logits are divided by
    `logits_scaling`.
    """

    attention_multiplier: float | None = None
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


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
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        yield f"model_type {kind!r} is not supported, only {', '.join(FAMILIES)}"
        return
    if trainer not in (None, *family["trainers"]):
        yield f"model_type {kind!r} is not supported by the trainer {trainer}, only by {', '.join(family['trainers'])}"
    config = _as_read(config)
    yield from _unsupported(config, SUPPORTED["always"])
    if trainer not in family.get("unchecked", []):
        numbers = [*family.get("windows", []), *family.get("multipliers", [])]
        values = {"architectures": family["architectures"], **SUPPORTED["values"]}
        honored = {*numbers, *family.get("ignored", [])}
        yield from _unsupported(config, {key: value for key, value in values.items() if key not in honored})
        yield from _not_positive(config, [*SUPPORTED["numbers"], *numbers])
        yield from _rope_problems(config)


def attention_window(config: Config) -> int | None:
    """The number of tokens that a token attends to, itself included; None without a limit."""
    keys = FAMILIES[config["model_type"]].get("windows", [])
    return min((config[key] for key in keys if key in config), default=None)


def multipliers(config: Config) -> Multipliers:
    """The factors of a config returned by `read`."""
    keys = FAMILIES[config["model_type"]].get("multipliers", [])
    return Multipliers(**{key: float(config[key]) for key in keys if key in config})


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
    absent = FAMILIES[config["model_type"]].get("absent", {})
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
    parameters, types = rope(config), SUPPORTED["rope_types"]
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
