"""Executes the queries of models on SQLite, in a process of its own, for common.inference.sql_scores. Standard library.

Where an example has no rows, three databases are filled from the schema's column types and the gold query's
literals: a query is right when it agrees with the gold query on all of them (the idea of test-suite accuracy,
Zhong, Yu and Klein, 2020). Nothing is random: the same example always meets the same rows.

A query may only read, and is limited in the steps of SQLite's machine, the size of a value, the size of its result
and the memory; these give the same verdict on every machine. Limits on the CPU time and the address space of the
process stand behind them, for a single step that never ends. Finding the query in an answer counts as well.

One JSON object a line in, one out, in turn; the gold query and the prediction are answers with a query in them:

    {"schema": ..., "rows": ..., "gold": ...}                      {"empty": false} or {"failure": "no such table: t"}
    {"schema": ..., "rows": ..., "gold": ..., "prediction": ...}   {"accepted": true}
    {"schema": ..., "rows": ..., "gold": ..., "shown": ...}        {"columns": [...], "rows": [...], "count": 1, ...}
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from random import Random
from typing import Any, NamedTuple

from common.inference import sql_text
from common.process_limits import limit_cpu_seconds, limit_memory

GOLD_CPU_SECONDS = 5  # the user's own; ordinary rows and queries take some hundredths
_PREDICTION_CPU_SECONDS = 2
_STEPS = 5_000_000  # of SQLite's virtual machine, some tenths of a second
_STEPS_BETWEEN_CHECKS = 10_000
_HEAP = 256 * 2**20  # bytes of SQLite
_ADDRESS_SPACE = 1024 * 2**20  # bytes of the process, results included
_LONGEST_VALUE = 1_000_000  # bytes of a text, a blob or a row
_RESULT_ROWS = 100_000
_RESULT_BYTES = 64 * 2**20  # of its texts and blobs
_DATABASES = 3
_SHOWN_ROWS = 20
_LONGEST_SHOWN = 200  # characters of a value
_ROWS = 24  # enough for groups and ties, few enough for a join of four tables

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_REFUSED_FUNCTIONS = {"random", "randomblob", "load_extension"}  # another result each time, or other code
_NOT_FOR_SCHEMAS = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}
_FAILURES = (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError)

_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\d+(?:\.\d+)?|\w+""")

Row = tuple[Any, ...]


class Column(NamedTuple):
    """A column as PRAGMA table_info tells it; `kind` is the declared type, in any spelling."""

    name: str
    kind: str
    not_null: bool
    key: bool


class Expected(NamedTuple):
    """What a gold query gives, as far as it decides it: `ties` in order, the order within each is free.

    LIMIT shows `count` rows after the first `offset`; which rows of a tie it shows is free as well.
    """

    ties: list[list[Row]]
    offset: int
    count: int

    def agrees(self, result: list[Row]) -> bool:
        if len(result) != self.count:
            return False
        start = -self.offset
        for tie in self.ties:
            end = start + len(tie)
            shown = result[max(start, 0) : max(end, 0)]
            if shown and not Counter(shown) <= Counter(tie):
                return False
            start = end
        return True


class Gold:
    """A gold query with the databases to compare on. Raises one of _FAILURES where it does not run."""

    def __init__(self, schema: str, rows: str, query: str) -> None:
        self._databases = list(_databases(schema, rows, query))
        self._expected = [expected(database, query) for database in self._databases]
        found = (tie for each in self._expected if each.count for tie in each.ties)
        self.empty = all(value is None for tie in found for row in tie for value in row)

    def accepts(self, prediction: str) -> bool:
        """Whether `prediction` gives what the gold query gives, in every database."""
        pairs = zip(self._databases, self._expected, strict=True)
        return all(each.agrees(_select(database, prediction)[0]) for database, each in pairs)


def expected(database: sqlite3.Connection, query: str) -> Expected:
    """Run a gold query, and find out which of its rows are tied: the order is compared no further than it decides.

    Where that cannot be found out, by a query too unusual to be cut into parts, the order of all its rows counts.
    """
    result, names = _select(database, query)
    strict = Expected([[row] for row in result], 0, len(result))
    parts = sql_text.parts(query)
    if parts is None or not (parts.terms or parts.limited):
        return strict if parts is None else Expected([result], 0, len(result))
    try:
        found = Expected(_ties(database, parts, names), parts.offset, len(result))
    except _FAILURES:
        return strict
    return found if found.agrees(result) else strict


def _ties(database: sqlite3.Connection, parts: sql_text.Query, names: list[str]) -> list[list[Row]]:
    """All rows without LIMIT, those together that ORDER BY does not tell apart."""
    keys: list[int] = []
    more: list[str] = []
    for term in parts.terms:
        if term.isdigit():
            keys.append(int(term) - 1)
        elif term.strip('"`[]').lower() in names:
            keys.append(names.index(term.strip('"`[]').lower()))
        else:
            keys.append(len(names) + len(more))
            more.append(term)
    if more and parts.compound:
        raise ValueError("a compound query takes no more columns")
    rows, _ = _select(database, parts.unlimited(more))
    groups = groupby(rows, key=lambda row: [row[key] for key in keys])
    return [[row[: len(names)] for row in group] for _, group in groups]


def _select(database: sqlite3.Connection, query: str) -> tuple[list[Row], list[str]]:
    """The rows of a query and the names of its columns in lower case."""
    _limit(database, _may_read)
    cursor = database.execute(query)
    if cursor.description is None:
        raise sqlite3.DataError("not a query")
    return list(_rows(cursor)), [name.lower() for name, *_ in cursor.description]


def _rows(cursor: sqlite3.Cursor) -> Iterator[Row]:
    size = 0
    for number, row in enumerate(cursor):
        size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
        if number == _RESULT_ROWS or size > _RESULT_BYTES:
            raise sqlite3.DataError(f"more than {_RESULT_ROWS} rows or {_RESULT_BYTES} bytes")
        yield tuple(_rounded(value) for value in row)


def _limit(database: sqlite3.Connection, authorizer: Any) -> None:
    """Give the next statements `authorizer`'s rights and a fresh allowance of steps."""
    checks = iter(range(_STEPS // _STEPS_BETWEEN_CHECKS))
    database.set_authorizer(authorizer)
    database.set_progress_handler(lambda: next(checks, None) is None, _STEPS_BETWEEN_CHECKS)


def _may_read(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    refused = action not in _READING or (action == sqlite3.SQLITE_FUNCTION and name in _REFUSED_FUNCTIONS)
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def _may_build(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action in _NOT_FOR_SCHEMAS else sqlite3.SQLITE_OK


def _rounded(value: Any) -> Any:
    """Floats to nine digits: sums depend on the order of the rows."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _databases(schema: str, rows: str, gold: str) -> Iterator[sqlite3.Connection]:
    for number in range(1 if rows.strip() else _DATABASES):
        database = sqlite3.connect(":memory:")
        database.execute("PRAGMA temp_store = MEMORY")  # a sort shall not fill the disk
        if sys.version_info >= (3, 11):
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        _limit(database, _may_build)
        database.executescript(schema)
        if rows.strip():
            database.executescript(rows)
        else:
            _fill(database, gold, seed=number)
        yield database


def _fill(database: sqlite3.Connection, gold: str, seed: int) -> None:
    """Put rows into every table; the first row holds what the gold query looks for, the others vary around it."""
    tables = _tables(database)
    wanted = _literals(gold, {column.name.lower() for columns in tables.values() for column in columns})
    for table, columns in tables.items():
        values = [_column_values(table, column, wanted.get(column.name.lower(), []), seed) for column in columns]
        names = ", ".join(_quoted(column.name) for column in columns)
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT OR IGNORE INTO {_quoted(table)} ({names}) VALUES ({marks})"
        database.executemany(statement, zip(*values, strict=True))


def _tables(database: sqlite3.Connection) -> dict[str, list[Column]]:
    database.set_authorizer(None)
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    return {
        table: [
            Column(name, kind, bool(not_null), bool(key))
            for _, name, kind, not_null, _, key in database.execute(f"PRAGMA table_info({_quoted(table)})")
        ]
        for (table,) in database.execute(names).fetchall()
    }


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literals(query: str, columns: set[str]) -> dict[str, list[str]]:
    """The query's literals by lower-case column: each belongs to the column named last before it."""
    found: dict[str, list[str]] = {}
    column = ""
    for token in _TOKEN.findall(query):
        name = token.strip('"`')
        if name.lower() in columns:
            column = name.lower()
        elif token[0] in "'\"" or token[0].isdigit():
            found.setdefault(column, []).append(token.strip("'\"").strip("%"))
    return found


def _column_values(table: str, column: Column, wanted: list[str], seed: int) -> list[Any]:
    """One column's values, a row each; what is wanted comes first, so that the first row meets every condition."""
    if column.key:
        return [*wanted, *(number if _is_number(column.kind) else f"key {number}" for number in range(_ROWS))][:_ROWS]
    fillers = _fillers(column.kind, wanted)
    targets = wanted or fillers
    others = fillers if column.not_null else [*fillers, None]
    random = Random(f"{seed} {table} {column.name}")
    mixture = [random.choice(targets if random.random() < 0.4 else others) for _ in range(_ROWS - 1)]
    return [targets[seed % len(targets)], *mixture]


def _fillers(kind: str, wanted: list[str]) -> list[Any]:
    """Values that a nearly right condition would take for the wanted ones, and some others."""
    numbers = [float(text) if "." in text else int(text) for text in wanted if re.fullmatch(r"\d+(\.\d+)?", text)]
    around: list[Any] = [number + step for number in numbers for step in (-1, 1)]
    if _is_number(kind):
        return [*range(1, 6), *around]
    if re.search("DATE|TIME", kind.upper()):
        return [f"{year}-0{month}-15" for year in (1999, 2010, 2021) for month in (1, 6)]
    if numbers:
        return [str(number) for number in around] + ["1", "2", "3"]
    return ["ash", "birch", "cedar", "elm", *(f"{text} fir" for text in wanted)]


def _is_number(kind: str) -> bool:
    return re.search("INT|REAL|FLOA|DOUB|NUM|DEC|BOOL", kind.upper()) is not None


@lru_cache(maxsize=1)  # base and adapter are asked the same
def _gold(schema: str, rows: str, query: str) -> Gold:
    return Gold(schema, rows, sql_text.query_in(query))


def _table(request: dict[str, str]) -> dict[str, Any]:
    """What a query finds, for a person: some rows as texts, None for NULL."""
    try:
        limit_cpu_seconds(_PREDICTION_CPU_SECONDS)
        database = next(_databases(request["schema"], request["rows"], sql_text.query_in(request["gold"])))
        found, columns = _select(database, sql_text.query_in(request["shown"]))
    except _FAILURES as error:
        return {"failure": str(error) or type(error).__name__}
    rows = [[None if value is None else str(value)[:_LONGEST_SHOWN] for value in row] for row in found[:_SHOWN_ROWS]]
    return {"columns": columns, "rows": rows, "count": len(found), "invented": not request["rows"].strip()}


def answer(request: dict[str, str]) -> dict[str, Any]:
    """The reply to one request."""
    if "shown" in request:
        return _table(request)
    try:
        limit_cpu_seconds(GOLD_CPU_SECONDS)
        gold = _gold(request["schema"], request["rows"], request["gold"])
    except _FAILURES as error:
        return {"failure": str(error) or type(error).__name__}
    if "prediction" not in request:
        return {"empty": gold.empty}
    try:
        limit_cpu_seconds(_PREDICTION_CPU_SECONDS)
        return {"accepted": gold.accepts(sql_text.query_in(request["prediction"]))}
    except _FAILURES:
        return {"accepted": False}


def main() -> None:
    """Answer requests until there are no more."""
    sqlite3.connect(":memory:").execute(f"PRAGMA hard_heap_limit = {_HEAP}")  # of the process
    limit_memory(_ADDRESS_SPACE)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
