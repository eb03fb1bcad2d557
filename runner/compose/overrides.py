"""Overrides of the command line: checked before Hydra reads them, and rewritten where Hydra would misread them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from runner.compose.groups import SHORTHANDS, list_groups
from runner.compose.schema import Recipe
from runner.compose.text_values import quoted
from runner.compose.validate import keys
from runner.errors import RecipeError, did_you_mean

# Sections that accept any key.
_OPEN = tuple(f"{key}." for key, _, hint in keys(Recipe) if get_origin(hint) is dict)


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra needs them. Raises RecipeError.

    The option of a group is a string, so `tp_size=8` gets quotes; a key in a section that accepts any gets `++`.

    >>> hydra_overrides(["tp_size=1,2", "train.epochs=3", "dataset.where.task=qa", "dataset.where={task: qa}"])
    ["tp_size='1','2'", 'train.epochs=3', '++dataset.where.task=qa', '++dataset.where={task: qa}']
    """
    return [_hydra_override(text) for text in overrides]


def _hydra_override(text: str) -> str:
    key = text.partition("=")[0]
    if key in SHORTHANDS:
        return _quote_option(text)
    return quoted(f"++{text}" if f"{key}.".startswith(_OPEN) else text)


def _quote_option(text: str) -> str:
    if "range(" in text or "glob(" in text:
        override = parse(text)
        options = _choices(override, list_groups()[override.key_or_group])
        return f"{override.key_or_group}={','.join(map(repr, options))}"
    return re.sub(r"(?<![\w'.-])(\d+)(?![\w'.])", r"'\1'", text)


@cache
def parse(text: str) -> Override:
    """An override as Hydra reads it. Raises RecipeError."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        if "=" not in text:
            raise RecipeError(f"command line: {text}: an override is KEY=VALUE or GROUP=OPTION") from error
        raise RecipeError(
            f"command line: {text}: Hydra cannot read the value; put a value with special characters in quotes: "
            f"'{text.partition('=')[0]}=\"...\"'"
        ) from error


def check_overrides(overrides: Sequence[str], source: Path) -> None:
    """Raises RecipeError for an unknown key or option, which Hydra would accept or report less clearly."""
    groups = list_groups(source.parent)
    known = {key for key, _, _ in keys(Recipe)}
    for override in map(parse, overrides):
        if not override.key_or_group.startswith(("hydra.", "hydra/")):
            _check_override(override, groups, known)


def _check_override(override: Override, groups: Mapping[str, list[str]], known: Set[str]) -> None:
    name, text = override.key_or_group, override.input_line
    if override.is_delete() and (name in groups or name in known):
        raise RecipeError(f"command line: {text}: a key cannot be deleted; set it to another value")
    if name in groups:
        for choice in _choices(override, groups[name]):
            if choice not in groups[name]:
                raise RecipeError(f"command line: {text}: {_unknown_option(name, choice, groups[name])}")
    for key in () if name in groups else (name, *_nested_keys(override)):
        if key not in known and not key.startswith(_OPEN):
            where = text if key == name else f"{text}: {key}"
            raise RecipeError(f"command line: {where}: no such key; {did_you_mean(key, [*known, *groups])}")


def _choices(override: Override, options: list[str]) -> list[str]:
    value: Any = override.value()
    if isinstance(value, Glob):
        return value.filter(options)
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return [str(value)]


def _unknown_option(group: str, choice: str, options: list[str]) -> str:
    if group in SHORTHANDS:
        numbers = ", ".join(sorted(options, key=int))
        return f"configs/{group}/ has only {numbers}; for other values, set {SHORTHANDS[group]}={choice}"
    return f"no such {group}; {did_you_mean(choice, options)}"


def _nested_keys(override: Override) -> Iterator[str]:
    """The keys in mappings: train.lora.rank and train.lora.alpha for `train.lora={rank:4,alpha:8}`."""
    values: Any = [override.value()]
    if override.is_choice_sweep() and not isinstance(values[0], Glob):
        values = override.sweep_iterator()
    pending = [(override.key_or_group, value) for value in values]
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):
            pending += [(f"{key}.{name}", nested) for name, nested in value.items()]
            yield from (f"{key}.{name}" for name in value)


def refuse_sweep(overrides: Sequence[str]) -> None:
    """Raises RecipeError for an override with several values."""
    for override in map(parse, overrides):
        if override.is_sweep_override():
            raise RecipeError(
                f"command line: {override.input_line}: several values make a sweep; add -m, or write a list as [a,b]"
            )


def check_shorthands(values: Mapping[str, Any], source: Path, overrides: Sequence[str]) -> None:
    """Raises RecipeError where a recipe's `parallel.tp_size` would silently win over `tp_size=4`."""
    for group, key in SHORTHANDS.items():
        section, leaf = key.split(".")
        options = [text.partition("=")[2].strip("'") for text in overrides if text.startswith(f"{group}=")][-1:]
        if options and options[0] != str(values[section][leaf]):
            raise RecipeError(
                f"command line: {group}={options[0]} is overruled by {key}={values[section][leaf]} in {source}; "
                f"set {key}={options[0]} instead"
            )


def sets(overrides: Sequence[str], key: str) -> bool:
    """Whether an override sets a key, or a key below it."""
    for override in map(parse, overrides):
        if any(f"{name}.".startswith(f"{key}.") for name in (override.key_or_group, *_nested_keys(override))):
            return True
    return False
