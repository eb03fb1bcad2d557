"""Reads and selects the rows of a local data file as the stage programs do (scripts/common/data/rows.py)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple


class BadRow(ValueError):
    """A file or a row that cannot be read. The message is one line that names the file and line."""


class Row(NamedTuple):
    """One example: its place (file:line, for messages) and its columns."""

    place: str
    fields: dict[str, Any]


def read(path: Path) -> Iterator[Row]:
    """The rows of a JSONL, JSON, CSV or Parquet file. Raises BadRow and OSError."""
    try:
        yield from _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise BadRow(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def can_be_read(path: Path) -> bool:
    """Whether the packages to read this file are installed here; pyarrow may be only where the stages run."""
    return path.suffix != ".parquet" or find_spec("pyarrow") is not None


def matches(fields: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    """Whether the columns of a row have the values in `where`.

    A string is compared as it is; another value is compared with the condition parsed as JSON, so that `true`, `null`,
    `5` and `5.0` match true, null and 5.
    """
    return all(_is(fields[column], wanted) for column, wanted in where.items())


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, str):
        return value == wanted
    if value is None or isinstance(value, (bool, int, float)):
        parsed = _json_value(wanted)
        return isinstance(parsed, bool) == isinstance(value, bool) and parsed == value
    return str(value) == wanted  # dates and decimals of Parquet


def _json_value(text: str) -> Any:
    try:
        return json.loads(text.lower())
    except ValueError:
        return text


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _object(f"{path}:{number}", _parsed(f"{path}:{number}", line))


def _json(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(64).lstrip()
    if not start.startswith("["):
        yield from _jsonl(path)
        return
    for number, value in enumerate(_parsed(str(path), path.read_text(encoding="utf-8-sig")), 1):
        yield _object(f"{path}: entry {number}", value)


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, strict=True)
        try:
            for fields in table:
                if None in fields or None in fields.values():
                    raise BadRow(f"{path}:{table.line_num}: has a different number of values than line 1 has columns")
                yield Row(f"{path}:{table.line_num}", fields)
        except csv.Error as error:
            raise BadRow(f"{path}:{table.reader.line_num}: broken CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=4096))
            for number, fields in enumerate(chain.from_iterable(batches), 1):
                yield Row(f"{path}: row {number}", fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRow(f"{path}: truncated or not Parquet: {error}") from error


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{place}: not JSON: {error}") from error


def _object(place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise BadRow(f"{place}: is a {type(value).__name__}, not an object with columns")
    return Row(place, value)


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
