"""Rows of a data set, streamed from its files by their suffix.

JSONL (also .ndjson), JSON (an array, an object a line, or an array under one key), CSV and TSV, Parquet, and Arrow as
`save_to_disk` of the library datasets writes it. Text files may be compressed: .gz, .zst.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

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
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise BadInput(f"{path}: truncated or not gzip: {error}") from error


def reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    """What reads this kind of file. Raises BadInput when nothing here can."""
    kind, packing = suffixes(path)
    if kind not in READERS or (packing and kind in _BINARY):
        raise BadInput(f"{path}: its suffix is none of {', '.join(READERS)}")
    if (kind in _BINARY or packing == ".zst") and find_spec("pyarrow") is None:
        raise BadInput(f"{path}: reading it needs pyarrow: pip install pyarrow")
    return READERS[kind]


def suffixes(path: Path) -> tuple[str, str]:
    """The suffix that tells the kind of a file, and that of its compression or nothing."""
    name = Path(path.name.lower())
    packing = name.suffix if name.suffix in (".gz", ".zst") else ""
    return Path(name.name.removesuffix(packing)).suffix, packing


def _open(path: Path) -> TextIO:
    """A text file, uncompressed."""
    packing = suffixes(path)[1]
    if packing == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    if packing == ".zst":
        import pyarrow

        return io.TextIOWrapper(pyarrow.input_stream(str(path), compression="zstd"), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


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
        raise BadInput(f"{path}: holds the splits {', '.join(splits)}; write the one to use into a file of its own")
    key = _key_of_rows(value)
    if key is None:
        raise BadInput(f"{path}: neither rows nor an object with one list of rows")
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
    csv.field_size_limit(2**31 - 1)  # the default refuses a text of more than 128 KiB
    named, delimiter = _delimiter(path)
    with _open(path) as file:
        if named:
            file.readline()
        table = csv.DictReader(file, strict=True, delimiter=delimiter)
        try:
            if len(set(table.fieldnames or [])) < len(table.fieldnames or []):
                raise BadInput(f"{path}:{1 + named}: two columns have the same name")
            for fields in table:
                place = f"{path}:{table.line_num + named}"
                if None in fields or None in fields.values():
                    raise BadInput(f"{place}: not as many values as line 1 has columns")
                yield Row(place, fields)
        except csv.Error as error:
            raise BadInput(f"{path}:{table.reader.line_num + named}: broken CSV: {error}") from error


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
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise BadInput(f"{path}: two columns have the same name")
            places = [f"{path}: column {name!r}" for name in names]
            batches = (map(_values, places, batch.columns) for batch in file.iter_batches(batch_size=4096))
            for number, values in enumerate(chain.from_iterable(zip(*each, strict=True) for each in batches), 1):
                yield Row(f"{path}: row {number}", dict(zip(names, values, strict=True)))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: truncated or not Parquet: {error}") from error


def _arrow(path: Path) -> Iterator[Row]:
    """A stream of record batches, as the library datasets writes, or a file of them (Feather)."""
    import pyarrow

    number = 0
    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                batches: Iterable[Any] = pyarrow.ipc.open_stream(source)
            except pyarrow.ArrowInvalid:
                file = pyarrow.ipc.open_file(source)
                batches = (file.get_batch(index) for index in range(file.num_record_batches))
            for batch in batches:
                names = batch.schema.names
                columns = [_values(f"{path}: column {name!r}", batch.column(name)) for name in names]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield Row(f"{path}: row {number}", dict(zip(names, values, strict=True)))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: truncated or not Arrow: {error}") from error


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


READERS = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
    ".arrow": _arrow,
}  # fmt: skip
_BINARY = (".parquet", ".arrow")
_SPLITS = {"train", "training", "test", "validation", "valid", "val", "dev", "eval"}
_TURNS = ("messages", "conversations", "prompt", "completion")  # columns of which one row alone holds a list of objects
