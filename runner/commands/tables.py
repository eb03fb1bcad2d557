"""The terminal, and tables in it; JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def terminal() -> Console:
    """The terminal in its width; a file or pipe gets lines of up to 160 columns."""
    return Console(width=None if sys.stdout.isatty() else 160)


class _PlainTable(Table):
    """A table in which brackets are no markup: cells are what users wrote, such as [q_proj,v_proj]."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*headings: str, **options: Any) -> Table:
    """An empty table with long cells wrapped. Brackets are not markup. `options` are those of Table."""
    made = _PlainTable(box=box.SIMPLE_HEAD, **options)
    for heading in headings:
        made.add_column(Text(heading), overflow="fold")
    return made


def of_rows(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> Table:
    """A table with these columns of each row, under their names."""
    made = table(*columns)
    for row in rows:
        made.add_row(*(row[name] for name in columns))
    return made


def print_json(value: Any) -> None:
    """Print what a command lists or shows for programs: JSON on stdout, with null for what is no number."""
    print(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """The value with None for NaN and infinities, which a loss may be: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
