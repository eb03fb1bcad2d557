"""What describes a model or a data set goes with it: to a path that is set later it does not apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.compose.schema import DATA_SUFFIXES

_GOES_WITH = {
    "model.path": ("model.name", "model.revision", "model.architecture"),
    "dataset.path": ("dataset.name", "dataset.revision", "dataset.eval_path"),
}


def forget(values: dict[str, Any], rank_of: Callable[[str], int]) -> list[str]:
    """Take out of a recipe's values what describes another path than its own; the name is made of the path.

    `rank_of` tells how late a key was set: by an option, the recipe, the command line. Returns a line for each thing
    that is not used, its name left out.
    """
    notes = []
    for path_key, keys in _GOES_WITH.items():
        section = values[path_key.partition(".")[0]]
        path = section.get("path") if isinstance(section, dict) else None
        if not isinstance(path, str):
            continue  # which the schema refuses
        for key in (key for key in keys if rank_of(key) < rank_of(path_key)):
            name = key.partition(".")[2]
            if name == "name":
                section[name] = name_of(path)
            elif section.get(name) is not None:
                notes.append(f"{key}: goes with another {path_key} than {path}, so it is not used")
                section[name] = None
    return notes


def name_of(path: str) -> str:
    """What a model or a data set is called after its path or id on the hub.

    >>> name_of("meta-llama/Llama-3.2-1B"), name_of("data/rows.jsonl")
    ('Llama-3.2-1B', 'rows')
    """
    name = Path(path).expanduser().absolute().name
    return next((name.removesuffix(suffix) for suffix in (*DATA_SUFFIXES, ".gguf") if name.endswith(suffix)), name)
