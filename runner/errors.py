"""What a user can get wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecipeError(Exception):
    """Bad input, found before any work: one line that names the place, the key and what to try."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A clause to end an error line with: the nearest right name, or all of them where they are few.

    >>> did_you_mean("tp_sise", ["tp_size", "epochs"])
    'did you mean tp_size?'
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(wrong, names, n=1) or _same_leaf(wrong, names)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"choose from: {', '.join(names)}" if len(names) <= 20 else "`runner plan` shows every key"


def _same_leaf(wrong: str, names: list[str]) -> list[str]:
    """Dotted names whose last part resembles the last part of `wrong`: `lora.rank` is `train.lora.rank`."""
    leaves = {name.rpartition(".")[2]: name for name in names}
    return [leaves[leaf] for leaf in difflib.get_close_matches(wrong.rpartition(".")[2], leaves, n=1, cutoff=0.75)]
