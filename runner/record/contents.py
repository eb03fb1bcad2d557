"""Reads the files of a record: each is checked for what readers rely on, so that damage is found here and named."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.execute import run_folder
from runner.metrics import EVALUATION
from runner.record.old_keys import rename_old_keys


@dataclasses.dataclass(frozen=True)
class Maybe:
    """The shape of a key that may be missing."""

    shape: Any


# By key: a type, what tells whether a value fits, a tuple of possible shapes, [the shape of every item] or a mapping;
# {str: SHAPE} is a mapping of any keys to values of that shape.
Shape = Mapping[Any, Any]

_NUMBER = (int, float)


def _is_finite(value: object) -> bool:
    return run_folder.fits(value, _NUMBER)


def _is_command(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _is_point(value: object) -> bool:
    """Whether it is a step and the loss there."""
    return _is_pair(value, _NUMBER, (*_NUMBER, type(None)))


def _is_piece(value: object) -> bool:
    """Whether it is a text and whether that is learnt."""
    return _is_pair(value, str, bool)


def _is_pair(value: object, first: Any, second: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], first) and isinstance(value[1], second)


MANIFEST: Shape = {
    "recipe": str,
    "overrides": [str],
    "choices": dict,
    "command": [str],
    "git": ({"commit": str, "changed": bool}, type(None)),
    "python": str,
    "packages": dict,
    "machine": {"host": str},
    "price_per_hour": Maybe((*_NUMBER, type(None))),
    "started": str,
}
_STEP: Shape = {
    "stage": str,
    "title": str,
    "key": str,
    "argv": _is_command,
    "env": dict,
    "cached": bool,
    "resumable": bool,
    "nodes": Maybe(int),
}
PLAN: Shape = {
    "recipe": str, "store": str, "steps": [_STEP], "carried": Maybe(dict), "where": Maybe((str, type(None))),
}  # fmt: skip
_COUNTS = Maybe({str: _is_finite})
_LOSS = Maybe((*_NUMBER, type(None)))
_METRICS = {name: Maybe(_NUMBER) for name in EVALUATION}
RESULTS: Mapping[str, Shape] = {
    "preview.json": {"examples": Maybe([[_is_piece]])},
    "report.json": {"examples": int, "base": _METRICS, "adapter": _METRICS},
    "smoke.json": {"equal_to_evaluation": int, "prompts": int, "differs_from_base": int, "as_evaluated": Maybe(int)},
    "statistics.json": {"seq_len": int, "train": _COUNTS, "eval": _COUNTS},
    "training.json": {
        "steps": Maybe(int), "tokens": Maybe(int), "label_tokens": Maybe(int), "seconds": Maybe(_is_finite),
        "best_step": Maybe((int, type(None))), "eval_loss_start": _LOSS, "eval_loss_end": _LOSS,
        "evaluations": Maybe([_is_point]),
    },
}  # fmt: skip
SWEEP: Shape = {"objective": str, "direction": str, "keys": Maybe([str]), "trials": Maybe(int)}
JOB: Shape = {"scheduler": str, "ids": [str]}
RECIPE: Shape = {
    "name": str,
    "model": {"name": (str, type(None))},
    "dataset": {"name": (str, type(None))},
    "hardware": {"name": (str, type(None)), "price_per_hour": (*_NUMBER, type(None))},
    "parallel": {"tp_size": int},
    "train": {"lora": {"rank": int, "alpha": _NUMBER}},
    "serve": {"mode": str},
    "target": {"kind": str},
    "tracker": dict,
}
SAMPLE: Shape = {"prompt": str, "reference": str, "base": {"text": str}, "adapter": {"text": str}}


_RESTORE = "the record is damaged; restore the file, or remove the folder of the run"


class DamagedRecord(RecipeError):
    """A file of a record is missing, or does not hold what it should."""

    def __init__(self, path: Path, problem: str, advice: str = _RESTORE):
        super().__init__(f"{path}: {problem}: {advice}")


def read_json(path: Path, shape: Shape) -> dict[str, Any]:
    """The content of a JSON file that has a shape. Raises DamagedRecord."""
    return _checked(path, _parsed(path, json.loads), shape)


def read_recipe(path: Path) -> dict[str, Any]:
    """A recorded recipe with today's keys; one that it lacks, as those of earlier versions do, has its default."""
    recorded = rename_old_keys(_checked(path, _parsed(path, _load_yaml), {}))
    return _checked(path, _over(_defaults(), recorded), RECIPE)


@cache
def _defaults() -> dict[str, Any]:
    return dataclasses.asdict(Recipe())


def read_lines(path: Path, shape: Shape) -> Iterator[dict[str, Any]]:
    """The values in a file of JSON lines that have a shape; damaged lines are left out."""
    with path.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                if not _misfit(value, shape, ""):
                    yield value


def _load_yaml(text: str) -> Any:
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        content = path.read_bytes()
    except PermissionError as error:
        raise DamagedRecord(path, "you may not read it", "ask the owner of the run") from error
    except OSError as error:
        raise DamagedRecord(path, error.strerror or "cannot be read") from error
    try:
        return parse(content.decode("utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DamagedRecord(path, "cannot be parsed" if content.strip() else "is empty") from error


def _checked(path: Path, value: Any, shape: Shape) -> dict[str, Any]:
    misfit = _misfit(value, shape, "")
    if misfit:
        raise DamagedRecord(path, misfit)
    return value


def _misfit(value: Any, shape: Any, where: str) -> str:
    """What a value lacks of a shape; empty if it has all of it."""
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return f"{where or 'the content'} is no mapping"
        prefix = f"{where}." if where else ""
        if str in shape:
            return _first(_misfit(item, shape[str], f"{prefix}{key}") for key, item in value.items())
        missing = (key for key, part in shape.items() if key not in value and not isinstance(part, Maybe))
        for key in missing:
            return f"{prefix}{key} is missing"
        present = ((key, part) for key, part in shape.items() if key in value)
        return _first(_misfit(value[key], part, f"{prefix}{key}") for key, part in present)
    if isinstance(shape, Maybe):
        return _misfit(value, shape.shape, where)
    if isinstance(shape, tuple):
        return "" if any(not _misfit(value, one, where) for one in shape) else f"{where} is of another type"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return _first(_misfit(item, shape[0], f"{where}[{number}]") for number, item in enumerate(value))
    fits = isinstance(value, shape) if isinstance(shape, type) else shape(value)
    return "" if fits else f"{where} is of another type"


def _first(misfits: Iterator[str]) -> str:
    return next(filter(None, misfits), "")


def _over(defaults: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded values, and the defaults of the keys that are not there, in every section."""
    merged = {**defaults, **recorded}
    for key, default in defaults.items():
        if isinstance(default, dict) and default and isinstance(merged[key], Mapping):
            merged[key] = _over(default, merged[key])
    return merged
