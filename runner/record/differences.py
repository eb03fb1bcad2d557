"""The keys in which recipes differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def differing(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The dotted keys whose values are not the same in all recipes, with the value in each."""
    flat_recipes = [flat(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat_recipes for key in recipe)
    values = {key: [recipe.get(key) for recipe in flat_recipes] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def as_written(value: Any) -> str:
    """A value as YAML writes it on one line, with null and true; a text without quotes.

    >>> as_written([None, True, 1e-05]), as_written("a: b")
    ('[null, true, 1e-05]', 'a: b')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys.

    >>> flat({"train": {"lora": {"rank": 8}}})
    {'train.lora.rank': 8}
    """
    return dict(_leaves(values, prefix))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
