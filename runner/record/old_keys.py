"""Records of earlier versions: their keys get the names of today, and what a plan lacks is derived."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from runner.plan.model import HERE

_RENAMED = {
    "sdk.python": "sdk.train_python",
    "train.nxd.compile_cache": "train.compile_cache",
}


def rename_old_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded recipe with today's keys; where it has both the old and the new key, the new one keeps its value."""
    values = copy.deepcopy(dict(recipe))
    for old, new in _RENAMED.items():
        old_section, old_name = _section(values, old)
        new_section, new_name = _section(values, new)
        if old_name in old_section:
            new_section.setdefault(new_name, old_section.pop(old_name))
    return values


def old_where(target: Mapping[str, Any]) -> str:
    """Where a run took place, by its recipe's `target`: for a plan of an earlier version, or of another computer."""
    kind, host = target["kind"], target["host"]
    names = {"local": HERE, "ssh": host}
    return names.get(kind, f"{kind} at {host}" if host else kind)


def _section(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key, empty if there is no such section, and the last part of the key."""
    *parents, name = key.split(".")
    for parent in parents:
        values = values.get(parent) or {}
        if not isinstance(values, dict):
            return {}, name
    return values, name
