"""`runner options`: every choice and every key, explained; and the JSON Schema that editors complete recipes with."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.compose.recipe import groups, option_file
from runner.compose.schema import Recipe
from runner.compose.validate import keys, section_of
from runner.errors import RecipeError, did_you_mean

# Groups that set keys of another section than their own name's.
_SECTIONS = {"tp_size": "parallel", "epochs": "train"}


def show(group: str | None, console: Console) -> None:
    """Print the options of all groups, or those of one with the keys that they set. Raises RecipeError."""
    every = groups()
    if group is not None and group not in every:
        raise RecipeError(f"{group}: no such group; {did_you_mean(group, every)}")
    for name in [group] if group else every:
        console.print(f"[bold]{name}[/bold]")
        for option in sorted(
            every[name], key=lambda option: (len(option), option) if option.isdigit() else (0, option)
        ):
            line = f"  {name}={option:<20} {purpose(name, option)}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if group:
        console.print(_keys(_SECTIONS.get(group, group)))


def purpose(group: str, option: str) -> str:
    """The comment that opens an option's file, after its package if that is said."""
    lines = option_file(group, option).read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if "@package" not in line), "")
    return first.removeprefix("# ") if first.startswith("# ") else ""


def _keys(section: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("key", "default", "takes", "what it is"):
        table.add_column(heading, overflow="fold")
    for key, field, hint in keys(Recipe):
        if key.startswith(f"{section}.") and not section_of(hint):
            cells = (key, _default(field), _takes(hint, field.metadata), field.metadata["help"])
            table.add_row(*map(Text, cells))  # a bracket is no markup
    return table


def _default(field: dataclasses.Field) -> str:
    made = field.default_factory
    return str(made() if made is not dataclasses.MISSING else field.default)


def _takes(hint: Any, limits: typing.Mapping[str, Any]) -> str:
    if limits["choices"]:
        return " | ".join(limits["choices"])
    if typing.get_origin(hint) is list:
        return _name(hint)
    bounds = [f">= {limits['minimum']:g}" if limits["minimum"] is not None else "",
              f"<= {limits['maximum']:g}" if limits["maximum"] is not None else ""]  # fmt: skip
    return " ".join([_name(hint), *filter(None, bounds)])


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe file, with Hydra's defaults list."""
    schema = _object(Recipe)
    schema["properties"] |= {
        "defaults": {"type": "array", "description": _defaults_help()},
        "hydra": {"type": "object"},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "recipe", **schema}


def _defaults_help() -> str:
    return "base first, then choices: " + "; ".join(f"override {name}: {' | '.join(o)}" for name, o in groups().items())


def _object(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    properties = {field.name: _property(hints[field.name], field.metadata) for field in fields}
    return {"type": "object", "additionalProperties": False, "properties": properties}


_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _property(hint: Any, metadata: typing.Mapping[str, Any]) -> dict[str, Any]:
    described = {"description": metadata["help"]}
    nested = section_of(hint)
    if nested:
        return described | _object(nested)
    if typing.get_origin(hint) is list:
        items = {"type": _TYPES[typing.get_args(hint)[0]], **_limits({"choices": metadata["choices"]})}
        return described | {"type": "array", "items": items, "minItems": int(metadata["minimum"] or 0)}
    if typing.get_origin(hint) is dict:
        return described | _dict(hint)
    if isinstance(hint, types.UnionType):
        return described | _limits(metadata) | {"type": [_TYPES[typing.get_args(hint)[0]], "null"]}
    return described | _limits(metadata) | {"type": _TYPES[hint]}


def _dict(hint: Any) -> dict[str, Any]:
    value = typing.get_args(hint)[1]
    below = {str: {"type": "string"}, Any: {}}.get(value)
    return {"type": "object", "additionalProperties": _dict(value) if below is None else below}


def _limits(metadata: typing.Mapping[str, Any]) -> dict[str, Any]:
    names = {"minimum": "minimum", "maximum": "maximum", "enum": "choices"}
    return {name: metadata[ours] for name, ours in names.items() if metadata.get(ours) is not None}


def every_key() -> Iterator[str]:
    """All dotted keys of a recipe, for shell completion."""
    return (key for key, _, hint in keys(Recipe) if not section_of(hint))
