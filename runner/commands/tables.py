"""The terminal, and tables in it; JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_NAMES = ("run", "trial", "server")  # headings of columns with the names of runs
_PADDING = 3  # columns of a table beside each cell
_UNBOUNDED = 10_000  # columns; no terminal has as many


def terminal() -> Console:
    """The terminal in its width; a file or pipe gets lines of up to 160 columns."""
    return Console(width=None if sys.stdout.isatty() else 160)


class _PlainTable(Table):
    """A table in which brackets are no markup: cells are what users wrote, such as [q_proj,v_proj]."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*headings: str, **options: Any) -> Table:
    """An empty table with long cells wrapped. Brackets are not markup. `options` are those of Table.

    The names of runs, which people copy, stay on one line.
    """
    made = _PlainTable(box=box.SIMPLE_HEAD, **options)
    for heading in headings:
        made.add_column(Text(heading), overflow="fold", no_wrap=heading in _NAMES)
    return made


def of_rows(rows: Iterable[Mapping[str, RenderableType]], columns: Sequence[str]) -> Table:
    """A table with these columns of each row, under their names."""
    made = table(*columns)
    for row in rows:
        made.add_row(*(row[name] for name in columns))
    return made


def print_rows(rows: Collection[Mapping[str, str | Text]], columns: Sequence[str], console: Console) -> None:
    """Print the table that `of_rows` makes.

    Rich measures and wraps every cell several times, 0.6 ms a row. Where at most the last column has to be narrower
    than its text, the lines are made here.
    """
    texts = [[str(row[name]) for name in columns] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *texts, strict=True)]
    room = console.width - sum(width + _PADDING for width in widths[:-1]) - _PADDING - 1
    shrinkable = [width for name, width in zip(columns[:-1], widths, strict=False) if name not in _NAMES]
    plain = all(text.isprintable() for cells in texts for text in cells)
    if not plain or room < min(widths[-1], max(*shrinkable, cell_len(columns[-1]))):
        console.print(of_rows(rows, columns))
        return
    widths[-1] = min(widths[-1], room)
    rule = "─" * (sum(widths) + _PADDING * len(widths) - 1)
    lines = [_line(cells, widths) for row in rows for cells in _cells(row, columns, widths[-1], console)]
    blank = " " * (len(rule) + 2)
    console.out(blank, _line(columns, widths), sep="\n", style="bold", highlight=False)
    console.out(f" {rule} ", *lines, blank, sep="\n", highlight=False)


def _cells(row: Mapping[str, str | Text], columns: Sequence[str], room: int, console: Console) -> Iterator[list[str]]:
    """The cells of a row; where its last one is wrapped to a width, also those of the lines below."""
    *first, last = (row[name] for name in columns)
    lines = [str(last)]
    if cell_len(lines[0]) > room:
        text = last if isinstance(last, Text) else Text(last)
        lines = [line.plain for line in text.wrap(console, room, overflow=text.overflow or "fold")]
    for number, line in enumerate(lines):
        yield [*("" if number else str(cell) for cell in first), line]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True))
    return f"  {'   '.join(padded)}  "


def fits(made: Table, console: Console) -> bool:
    """Whether a table has room in the terminal with no cell wrapped."""
    wide = console.options.update(width=_UNBOUNDED, max_width=_UNBOUNDED)
    return Measurement.get(console, wide, made).maximum <= console.width


def one_line(text: str, console: Console) -> Text:
    """A cell that a terminal shows as much of as there is room for; a file or pipe gets it whole."""
    return Text(text, no_wrap=True, overflow="ellipsis") if console.is_terminal else Text(text)


def say(console: Console, text: str | Text, style: str = "", indent: int = 0) -> None:
    """Print text of any length, its lines after the first `indent` columns from the left. Only a terminal breaks them,
    between words.
    """
    said = Text(text, style=style) if isinstance(text, str) else text
    head, rest = said[:indent], said[indent:]
    lines = rest.wrap(console, max(console.width - indent, 1)) if console.is_terminal else rest.split()
    console.print(head + Text("\n" + " " * indent).join(lines), soft_wrap=True, highlight=False)


def say_labelled(console: Console, label: str, text: str, style: str = "") -> None:
    """Print text behind a label; where it is broken, its lines begin below each other."""
    say(console, f"{label:<8} {text}", style, indent=9)


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
