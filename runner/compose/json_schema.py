"""The JSON Schema of a recipe file, which editors use to complete and check recipes."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.compose.groups import list_groups
from runner.compose.schema import Recipe
from runner.compose.validate import item_of, section_of
from runner.paths import RECIPES


def json_schema(recipes: Path = RECIPES) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe file in the folder `recipes`, with Hydra's defaults list."""
    schema, groups = _object(Recipe), list_groups(recipes)
    schema["properties"] |= {
        "defaults": {"type": "array", "description": _defaults_help(groups), "items": _defaults_items(groups)},
        "hydra": {"type": "object"},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "recipe", **schema}


def _defaults_help(groups: Mapping[str, Sequence[str]]) -> str:
    choices = (f"override {name}: {' | '.join(options)}" for name, options in groups.items())
    return f"base first, then choices: {'; '.join(choices)}"


def _defaults_items(groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """`base`, `_self_` or `override GROUP: OPTION`. Options are examples, as a recipe may bring its own."""
    choices = {
        f"override {name}": {"type": ["string", "integer", "null"], "examples": options}
        for name, options in groups.items()
    }
    return {"anyOf": [{"type": "string", "examples": ["base", "_self_"]}, {"type": "object", "properties": choices}]}


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
        kind = _TYPES[typing.get_args(hint)[0]]
        if item_of(hint):
            return described | {"type": [kind, "array"], "items": {"type": _TYPES[item_of(hint)]}}
        return described | _limits(metadata) | {"type": [kind, "null"]}
    return described | _limits(metadata) | {"type": _TYPES[hint]}


def _dict(hint: Any) -> dict[str, Any]:
    value = typing.get_args(hint)[1]
    below = {str: {"type": "string"}, Any: {}}.get(value)
    return {"type": "object", "additionalProperties": _dict(value) if below is None else below}


def _limits(metadata: typing.Mapping[str, Any]) -> dict[str, Any]:
    names = {"minimum": "minimum", "maximum": "maximum", "enum": "choices"}
    return {name: metadata[key] for name, key in names.items() if metadata.get(key) is not None}
