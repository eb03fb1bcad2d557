"""The terminal, and tables in it."""

from __future__ import annotations

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
