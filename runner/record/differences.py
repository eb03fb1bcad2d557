"""In which keys recipes differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def differing(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted keys whose values are not the same in all recipes, with the value in each."""
    flats = [flat(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for one in flats for key in one)
    values = {key: [one.get(key) for one in flats] for key in keys}
    return {key: several for key, several in values.items() if any(value != several[0] for value in several)}


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
