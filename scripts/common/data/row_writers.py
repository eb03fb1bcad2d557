"""How the rows of a data set are written: all by one template, or each by the format of its own columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common import events
from common.data import row_formats
from common.data.conversation import Unusable
from common.data.rows import Row
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer, has_chat_template


class Scan:
    """What a first look at all rows finds: the columns of each format, and in which format any row holds turns."""

    def __init__(self, row_format: str) -> None:
        self._format_of: Callable[[Mapping[str, Any]], str] = (
            row_formats.recognise if row_format == "auto" else partial(row_formats.named, row_format)
        )
        self.columns: dict[str, dict[str, None]] = {}
        self.with_turns: set[str] = set()
        self._first_unknown: Unusable | None = None

    def over(self, rows: Iterable[Row]) -> int:
        """Look at rows. Returns how many there are."""
        count = 0
        for count, row in enumerate(rows, 1):  # noqa: B007  the count is what is left
            try:
                name = self.format_of(row.fields)
            except Unusable as error:
                self._first_unknown = self._first_unknown or Unusable(f"{row.place}: {error}")
                continue
            self.columns.setdefault(name, {}).update(dict.fromkeys(row.fields))
            if row_formats.holds_turns(name, row.fields):
                self.with_turns.add(name)
        return count

    def format_of(self, fields: Mapping[str, Any]) -> str:
        """The format of a row. Raises Unusable for one that has none."""
        return self._format_of(fields)

    def check(self) -> None:
        """Raises BadInput if no row has a known format."""
        if self._first_unknown and not self.columns:
            raise self._first_unknown


class RowWriters:
    """Writes rows by their formats, those that a scan found."""

    def __init__(self, folder: Path, scan: Scan, chat: bool | None, system: str | None) -> None:
        scan.check()
        chat = has_chat_template(folder) if chat is None else chat
        self._format_of = scan.format_of
        self.formats = {
            name: PromptTokenizer(
                folder, row_formats.template(name, list(columns), name in scan.with_turns, chat, system)
            )
            for name, columns in scan.columns.items()
        }
        for name, writer in self.formats.items():
            used = [column for column in scan.columns[name] if writer.template.uses(column)]
            written = "as chats" if writer.template.chat else "as plain text"
            events.log(f"rows of the format {name} ({', '.join(used)}), {written}")

    def notes(self) -> Iterator[str]:
        """What is to know about the chat template, and about several formats, a line each."""
        if len(self.formats) > 1:
            yield f"the rows are of several formats: {', '.join(self.formats)}; each is written by its own"
        chat = next((writer.chat for writer in self.formats.values() if writer.chat), None)
        yield from chat.warnings() if chat else ()

    @property
    def main(self) -> PromptTokenizer:
        """The writer of the first format that the rows have."""
        return next(iter(self.formats.values()))

    def of(self, fields: dict[str, Any]) -> tuple[PromptTokenizer, dict[str, Any]]:
        """The writer of a row, and its columns, with those that it may lack. Raises Unusable for no known format."""
        name = self._format_of(fields)
        return self.formats[name], dict.fromkeys(row_formats.FORMATS[name].optional) | fields


class OneWriter:
    """Writes all rows by one template."""

    def __init__(self, folder: Path, template: Template) -> None:
        self.main = PromptTokenizer(folder, template)
        self.formats: dict[str, PromptTokenizer] = {}

    def over(self, rows: Iterable[Row]) -> int:
        """The number of rows."""
        return sum(1 for _ in rows)

    def notes(self) -> Iterator[str]:
        """What is to know about the chat template, a line each."""
        yield from self.main.chat.warnings() if self.main.chat else ()

    def of(self, fields: dict[str, Any]) -> tuple[PromptTokenizer, dict[str, Any]]:
        """The writer of a row, and its columns."""
        return self.main, fields
