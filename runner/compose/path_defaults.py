"""Keys that describe a model or a data set belong to its path: they do not apply to a path that is set later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.compose.schema import DATA_SUFFIXES

_BELONGS_TO = {
    "model.path": ("model.name", "model.revision", "model.architecture"),
    "dataset.path": ("dataset.name", "dataset.revision", "dataset.config", "dataset.eval_path"),
}


def drop_stale(values: dict[str, Any], precedence: Callable[[str], int]) -> list[str]:
    """Remove from a recipe's values those that describe another path; the name is then derived from the path.

    `precedence` returns how late a key was set: by an option, the recipe or the command line. Returns a message for
    each value that was removed, except the name.
    """
    notes = []
    for path_key, keys in _BELONGS_TO.items():
        section = values[path_key.partition(".")[0]]
        path = section.get("path") if isinstance(section, dict) else None
        given = path if isinstance(path, list) else [path]
        paths = [each for each in given if isinstance(each, str)]
        if paths != given:
            continue  # the schema rejects it
        for key in (key for key in keys if precedence(key) < precedence(path_key)):
            name = key.partition(".")[2]
            if name == "name":
                section[name] = "+".join(map(name_of, paths))
            elif section.get(name) is not None:
                notes.append(f"{key}: not used, because it belongs to another {path_key} than {', '.join(paths)}")
                section[name] = None
    return notes


def name_of(path: str) -> str:
    """The name of a model or a data set, derived from its path or hub id.

    >>> name_of("meta-llama/Llama-3.2-1B"), name_of("data/rows.jsonl")
    ('Llama-3.2-1B', 'rows')
    """
    name = Path(path).expanduser().absolute().name.removesuffix(".gz").removesuffix(".zst")
    return next((name.removesuffix(suffix) for suffix in (*DATA_SUFFIXES, ".gguf") if name.endswith(suffix)), name)
