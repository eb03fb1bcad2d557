"""The terminal, and tables in it; JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def terminal() -> Console:
    """The terminal in its width; a file or pipe gets lines of up to 160 columns."""
    return Console(width=None if sys.stdout.isatty() else 160)


def table(*headings: str, **options: Any) -> Table:
    """An empty table with long cells wrapped. Brackets in headings are not markup. `options` are those of Table."""
    made = Table(box=box.SIMPLE_HEAD, **options)
    for heading in headings:
        made.add_column(Text(heading), overflow="fold")
    return made


def print_json(value: Any) -> None:
    """Print what a command lists or shows for programs: JSON on stdout, with null for what is no number."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity, which a loss may be."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
