"""A recipe with what it was composed from. Apart from `recipe`, which brings Hydra: most commands compose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.compose.schema import Recipe


@dataclass(frozen=True)
class Composed:
    """A recipe with what it was composed from: its file, the overrides, and the option of each group.

    `notes` are messages about values that do not apply.
    """

    recipe: Recipe
    source: Path
    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    notes: tuple[str, ...] = ()
