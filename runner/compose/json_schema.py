"""The JSON Schema of a recipe file, which editors use to complete and check recipes."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from runner.compose.groups import list_groups
from runner.compose.schema import Recipe
from runner.compose.validate import item_of, section_of


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe file, with Hydra's defaults list."""
    schema = _object(Recipe)
    schema["properties"] |= {
        "defaults": {"type": "array", "description": _defaults_help()},
        "hydra": {"type": "object"},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "recipe", **schema}


def _defaults_help() -> str:
    choices = (f"override {name}: {' | '.join(options)}" for name, options in list_groups().items())
    return f"base first, then choices: {'; '.join(choices)}"


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
