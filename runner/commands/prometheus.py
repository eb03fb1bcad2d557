"""The state of runs as Prometheus reads it from a file.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PREFIX = "trainium_recipes_run"
_LABELS = ("run", "where")
# Values of `runner status --json`, with what they mean.
_VALUES = {
    "done": "What the stage of a run has done, in its own unit.",
    "total": "What the stage of a run will have done at its end.",
    "loss": "The last training loss.",
    "seconds": "Seconds since a run began.",
    "seconds_left": "Seconds until the end of the stage, if it goes on as fast.",
}
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `runner status --json` as metrics, one sample a run; a value that a row lacks is left out."""
    return "".join(f"{line}\n" for line in _lines(rows))


def _lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _heading(_PREFIX, "1 for each run, with its state and its stage.")
    for row in rows:
        # The reason for which a run waits changes; each text would be a time series of its own.
        state = str(row["state"]).partition(":")[0]
        yield f"{_PREFIX}{_labels({**_place(row), 'state': state, 'stage': row['stage']})} 1"
    for name, meaning in _VALUES.items():
        measured = [row for row in rows if row.get(name) is not None]
        if measured:
            yield from _heading(f"{_PREFIX}_{name}", meaning)
        for row in measured:
            yield f"{_PREFIX}_{name}{_labels(_place(row))} {row[name]}"


def _heading(metric: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {metric} {meaning}"
    yield f"# TYPE {metric} gauge"


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _LABELS if name in row}


def _labels(values: Mapping[str, Any]) -> str:
    pairs = (f'{name}="{str(value or "").translate(_ESCAPES)}"' for name, value in values.items())
    return f"{{{','.join(pairs)}}}"
