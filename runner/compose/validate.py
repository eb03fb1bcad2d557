"""Converts plain values (from YAML and overrides) to the dataclasses of `runner.compose.schema`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from runner.compose.url_secrets import has_secret
from runner.errors import did_you_mean

T = TypeVar("T")


class InvalidKey(Exception):
    """A key that is not in the schema, or an invalid value."""

    def __init__(self, key: str, problem: str):
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


def build(kind: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Create an instance of the dataclass `kind` from nested mappings. Raises InvalidKey for the first mistake."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise InvalidKey(f"{prefix}{name}", f"no such key; {did_you_mean(str(name), fields)}")
    hints = _hints(kind)
    converted = {
        name: _convert(f"{prefix}{name}", value, hints[name], fields[name].metadata) for name, value in values.items()
    }
    return kind(**converted)


def keys(kind: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every dotted key of `kind` with its field and type, including sections."""
    for field in dataclasses.fields(kind):
        hint = _hints(kind)[field.name]
        yield f"{prefix}{field.name}", field, hint
        nested = section_of(hint)
        if nested:
            yield from keys(nested, f"{prefix}{field.name}.")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def section_of(hint: Any) -> type | None:
    """The dataclass in a type hint (`Lora`, `Architecture | None`), or None."""
    return next((kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)), None)  # type: ignore[return-value]


def type_of(hint: Any, name: str) -> Any:
    """The type of the key `name` in a section or a mapping; None if there is no such key."""
    section = section_of(hint)
    if section:
        return _hints(section).get(name)
    return typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None


def item_of(hint: Any) -> Any:
    """The type of a list's elements, of `list[X]` and `X | list[X]`; None if it is no list."""
    kind = next((kind for kind in (hint, *typing.get_args(hint)) if typing.get_origin(kind) is list), None)
    return typing.get_args(kind)[0] if kind else None


def _convert(key: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    if isinstance(hint, types.UnionType):  # the schema's only unions are `X | None` and `X | list[X]`
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = typing.get_args(hint)[1 if isinstance(value, list) and item_of(hint) else 0]
    if dataclasses.is_dataclass(hint):
        return build(hint, _mapping(key, value), f"{key}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is list:
        return _list(key, value, typing.get_args(hint)[0], limits)
    if typing.get_origin(hint) is dict:
        kind = type_of(hint, "")
        return {str(name): _item(f"{key}.{name}", name, item, kind) for name, item in _mapping(key, value).items()}
    return _in_limits(key, _scalar(key, value, hint), limits)


def _item(key: str, name: Any, value: Any, hint: Any) -> Any:
    """A value in a mapping that accepts any key."""
    _scalar(key, name, str)
    return value if hint is Any else _convert(key, value, hint, _NO_LIMITS)


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidKey(key, f"must be a mapping, not {value!r}")
    return value


def _list(key: str, value: Any, kind: type, limits: Mapping[str, Any]) -> list[Any]:
    if kind is float and isinstance(value, list):
        value = [float(item) if type(item) is int else item for item in value]
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        example = _LISTS[kind]
        quotes = "; put each in quotes" if kind is str and isinstance(value, list) else ""
        raise InvalidKey(key, f"must be a list of {example}, not {value!r}{quotes}")
    if len(value) < (limits["minimum"] or 0):
        choices = f" of {', '.join(limits['choices'])}" if limits["choices"] else ""
        raise InvalidKey(key, f"must have at least one{choices or ' element'}")
    return [_in_limits(key, item, {**limits, "minimum": None}) for item in value]


def _scalar(key: str, value: Any, kind: type) -> Any:
    if type(value) is int and abs(value) > _LARGEST:
        raise InvalidKey(key, f"{str(value)[:20]}... is too large; the maximum is {_LARGEST}")
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and type(value) is int:  # unambiguous; how another value was written is not known
        return str(value)
    if type(value) is not kind:
        raise InvalidKey(key, f"must be {_NAMES[kind]}, not {value!r}{_quotes(value, kind)}")
    return value


def _quotes(value: Any, kind: type) -> str:
    return "; put it in quotes" if kind is str and isinstance(value, (bool, float, type(None))) else ""


_LARGEST = 2**63 - 1  # what the stages' arrays and most formats of files can hold
_NO_LIMITS = {"minimum": None, "maximum": None, "choices": None}
_LISTS = {str: "strings such as [a,b]", int: "integers such as [1,2]", float: "numbers such as [0.7,0.3]"}
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _in_limits(key: str, value: Any, limits: Mapping[str, Any]) -> Any:
    minimum, maximum, choices = limits["minimum"], limits["maximum"], limits["choices"]
    if type(value) is str and has_secret(value):
        raise InvalidKey(
            key, "contains a password or a token, which every record would show; leave it out, and set it where the "
            "program reads it, such as in an environment variable",
        )  # fmt: skip
    if choices and value not in choices:
        raise InvalidKey(key, f"{value!r} is not a valid value; {did_you_mean(value, choices)}")
    if minimum is not None and not value >= minimum:
        raise InvalidKey(key, f"{value} is too small; the minimum is {minimum:g}")
    if maximum is not None and value > maximum:
        raise InvalidKey(key, f"{value} is too large; the maximum is {maximum:g}")
    return value
