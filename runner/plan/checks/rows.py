"""Reads and selects the rows of a local data file as the stage programs do (scripts/common/data/rows.py)."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO


class BadRow(ValueError):
    """A file or a row that cannot be read. The message is one line that names the file and line."""


class Row(NamedTuple):
    """One example: its place (file:line, for messages) and its columns."""

    place: str
    fields: dict[str, Any]


def read(path: Path) -> Iterator[Row]:
    """The rows of a file that `can_be_read`. Raises BadRow and OSError."""
    try:
        yield from _READERS[suffixes(path)[0]](path)
    except UnicodeDecodeError as error:
        raise BadRow(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadRow(f"{path}: truncated or not gzip: {error}") from error


def can_be_read(path: Path) -> bool:
    """Whether this kind of file can be read here; pyarrow may be installed only where the stages run."""
    kind, packing = suffixes(path)
    known = packing != ".zst" and kind in _READERS and (kind != ".parquet" or find_spec("pyarrow") is not None)
    return known and not _is_elsewhere(path)


def _is_elsewhere(path: Path) -> bool:
    """Whether a file has zeros instead of the content that it has on the target: see `runner.plan.elsewhere`."""
    with path.open("rb") as file:
        return file.read(1) == b"\0"


def suffixes(path: Path) -> tuple[str, str]:
    """The suffix that tells the kind of a file, and that of its compression or nothing."""
    name = Path(path.name.lower())
    packing = name.suffix if name.suffix in (".gz", ".zst") else ""
    return Path(name.name.removesuffix(packing)).suffix, packing


def _open(path: Path) -> TextIO:
    if suffixes(path)[1] == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


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
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _object(f"{path}:{number}", _parsed(f"{path}:{number}", line))


def _json(path: Path) -> Iterator[Row]:
    """An array of objects, an object that holds one under a key, or (as many are published) an object a line."""
    with _open(path) as file:
        start = file.read(64).lstrip()
        text = start + file.read() if start.startswith("[") else ""
    if not text:
        with _open(path) as file:
            text = _holding_rows(file)
    if not text:
        yield from _jsonl(path)
        return
    for number, value in enumerate(_array(path, _parsed(str(path), text)), 1):
        yield _object(f"{path}: entry {number}", value)


def _holding_rows(file: TextIO) -> str:
    """The text of a file that is one object of rows; nothing of one with an object a line, which is not read whole."""
    first = file.readline()
    with suppress(ValueError, RecursionError):
        row = json.loads(first)
        return first if not file.read(1) and _holds_rows(row) else ""
    return first + file.read()


def _holds_rows(value: Any) -> bool:
    return bool(_key_of_rows(value) or _splits(value) or _is_by_columns(value))


def _array(path: Path, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if _is_by_columns(value):
        return [{name: column[number] for name, column in value.items()} for number in next(iter(value.values()))]
    if splits := _splits(value):
        raise BadRow(f"{path}: holds the splits {', '.join(splits)}; write the one to use into a file of its own")
    key = _key_of_rows(value)
    if key is None:
        raise BadRow(f"{path}: neither rows nor an object with one list of rows")
    return value[key]


def _key_of_rows(value: Any) -> str | None:
    """The one key of an object that holds a list of objects, unless these are the turns of a conversation."""
    if not isinstance(value, dict):
        return None
    keys = [key for key, rows in value.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return keys[0] if len(keys) == 1 and keys[0] not in _TURNS else None


def _splits(value: Any) -> list[str]:
    """The keys of an object that holds the rows of several splits."""
    keys = [key for key in value if key.lower() in _SPLITS] if isinstance(value, dict) else []
    return keys if len(keys) > 1 and all(isinstance(value[key], list) for key in keys) else []


def _is_by_columns(value: Any) -> bool:
    """Whether an object has the columns of a table, each {"0": value, "1": value, ...}, as pandas writes it."""
    columns = list(value.values()) if isinstance(value, dict) else []
    return bool(columns) and all(
        isinstance(column, dict) and column and list(column) == list(map(str, range(len(columns[0]))))
        for column in columns
    )


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB
    named, delimiter = _delimiter(path)
    with _open(path) as file:
        if named:
            file.readline()
        table = csv.DictReader(file, strict=True, delimiter=delimiter)
        try:
            if len(set(table.fieldnames or [])) < len(table.fieldnames or []):
                raise BadRow(f"{path}:{1 + named}: two columns have the same name")
            for fields in table:
                place = f"{path}:{table.line_num + named}"
                if None in fields or None in fields.values():
                    raise BadRow(f"{place}: has a different number of values than line 1 has columns")
                yield Row(place, fields)
        except csv.Error as error:
            raise BadRow(f"{path}:{table.reader.line_num + named}: broken CSV: {error}") from error


def _delimiter(path: Path) -> tuple[bool, str]:
    """Whether the first line names the delimiter, as Excel's sep=; does, and the delimiter.

    Otherwise it is what parts the names in the first line: a comma, unless another one parts it into more.
    """
    with _open(path) as file:
        header = file.readline()
    if named := re.fullmatch(r"\"?sep=(.)\"?\s*", header, re.IGNORECASE):
        return True, named[1]
    if suffixes(path)[0] == ".tsv":
        return False, "\t"
    return False, max(",;\t|", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


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


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
_SPLITS = {"train", "training", "test", "validation", "valid", "val", "dev", "eval"}
_TURNS = ("messages", "conversations", "prompt", "completion")  # columns of which one row alone holds a list of objects
