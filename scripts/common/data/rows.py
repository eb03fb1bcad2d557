"""Rows of a data set, streamed from JSONL, JSON, CSV or Parquet files by their suffix."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from common.program import BadInput


class Row(NamedTuple):
    """One example: where it stands (file:line, for messages) and its columns, of values that JSON has."""

    place: str
    fields: dict[str, Any]


def read(files: Sequence[Path], where: Sequence[tuple[str, str]]) -> Iterator[Row]:
    """Stream the rows whose columns have the values of `where`.

    A text is compared as it is; another value with what JSON reads in the condition, so that `true`, `null`, `5`
    and `5.0` find true, null and 5.

    Raises BadInput that names file and line for a row that cannot be read.
    """
    for path in files:
        try:
            for place, fields in reader(path)(path):
                row = Row(place, _in_json(place, fields))
                if _matches(row, where):
                    yield row
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    """What reads this kind of file. Raises BadInput when nothing here can."""
    if path.suffix not in READERS:
        raise BadInput(f"{path}: its suffix is none of {', '.join(READERS)}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise BadInput(f"{path}: reading Parquet needs pyarrow: pip install pyarrow")
    return READERS[path.suffix]


def _in_json(place: str, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return {name: _plain(value) for name, value in fields.items()}
    except RecursionError:
        raise BadInput(f"{place}: nested too deeply") from None


def _plain(value: Any) -> Any:
    """A value that JSON has: dates and the like as text, NaN, by which tables spell a missing value, as None."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value)


def _matches(row: Row, where: Sequence[tuple[str, str]]) -> bool:
    for column, value in where:
        if column not in row.fields:
            raise BadInput(f"{row.place}: no column {column!r} (--where); the columns are {', '.join(row.fields)}")
        if not _is(row.fields[column], value):
            return False
    return True


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, str):
        return value == wanted
    if value is None or isinstance(value, (bool, int, float)):
        meant = _json_value(wanted)
        return isinstance(meant, bool) == isinstance(value, bool) and meant == value
    return str(value) == wanted  # dates and decimals of Parquet


def _json_value(text: str) -> Any:
    """The number, truth value or null that a condition spells, True and NULL included; else the text."""
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
    """An array of objects, or (as many data sets are published) an object a line."""
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(64).lstrip()
    if not start.startswith("["):
        yield from _jsonl(path)
        return
    for number, value in enumerate(_parsed(str(path), path.read_text(encoding="utf-8-sig")), 1):
        yield _object(f"{path}: entry {number}", value)


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a text of more than 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, strict=True)
        try:
            if len(set(table.fieldnames or [])) < len(table.fieldnames or []):
                raise BadInput(f"{path}:1: two columns have the same name")
            for fields in table:
                place = f"{path}:{table.line_num}"
                if None in fields or None in fields.values():
                    raise BadInput(f"{place}: not as many values as line 1 has columns")
                yield Row(place, fields)
        except csv.Error as error:
            raise BadInput(f"{path}:{table.reader.line_num}: broken CSV: {error}") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise BadInput(f"{path}: two columns have the same name")
            places = [f"{path}: column {name!r}" for name in names]
            batches = (map(_values, places, batch.columns) for batch in file.iter_batches(batch_size=4096))
            for number, values in enumerate(chain.from_iterable(zip(*each, strict=True) for each in batches), 1):
                yield Row(f"{path}: row {number}", dict(zip(names, values, strict=True)))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: truncated or not Parquet: {error}") from error


def _values(place: str, column: Any) -> list[Any]:
    """The values of an Arrow column; times that Python does not have, such as nanoseconds, as text."""
    with suppress(OverflowError, ValueError):
        return column.to_pylist()
    try:
        return column.cast(_with_text_for_times(column.type)).to_pylist()
    except (ValueError, NotImplementedError) as error:
        raise BadInput(f"{place} cannot be read, leave it out: {error}") from error


def _with_text_for_times(kind: Any) -> Any:
    """An Arrow type with text in the place of each time."""
    import pyarrow as pa

    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_with_text_for_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _with_text_for_times(field.type)) for field in kind])
    return kind


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not JSON: {error}") from error


def _object(place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise BadInput(f"{place}: a {type(value).__name__}, not an object with columns")
    return Row(place, value)


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
