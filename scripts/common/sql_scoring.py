"""Whether an SQL query answers the question: its result on SQLite against the gold query's. Standard library.

    question = SqlQuestion("CREATE TABLE head (name TEXT, age INTEGER)", "", "SELECT name FROM head WHERE age > 56")
    question.accepts("SELECT name FROM head WHERE age >= 57")   # True

Where an example has no rows, three databases are filled from the schema's column types and the gold query's
literals: a query is right when it agrees with the gold query on all of them (the idea of test-suite accuracy,
Zhong, Yu and Klein, 2020). Nothing is random: the same example always meets the same rows.

Predictions are a model's output, so they run with reading rights only and with a limit on the machine's steps,
which, unlike a limit on time, gives the same score everywhere.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

_DATABASES = 3
_ROWS = 24  # enough for groups and ties, few enough for a join of four tables
_STEPS = 5_000_000  # of SQLite's virtual machine, some tenths of a second
_STEPS_BETWEEN_CHECKS = 10_000
_RESULT_ROWS = 100_000

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
# Unbounded memory in one step, or another result each time.
_REFUSED_FUNCTIONS = {"randomblob", "zeroblob", "printf", "format", "random", "load_extension"}
_NOT_FOR_SCHEMAS = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}

_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\d+(?:\.\d+)?|\w+""")

Result = list[tuple[Any, ...]]


class Column(NamedTuple):
    """A column as PRAGMA table_info tells it; `kind` is the declared type, in any spelling."""

    name: str
    kind: str
    not_null: bool
    key: bool


class GoldFails(Exception):
    """The example's schema, rows or gold query do not run on SQLite."""


class SqlQuestion:
    """One gold query with the databases to compare on.

    Attributes:
        empty: the gold query finds nothing in any database, so agreeing with it says little.
        invented: the example has no rows of its own.
    """

    def __init__(self, schema: str, rows: str, gold: str) -> None:
        self.invented = not rows.strip()
        self._ordered = _is_ordered(gold)
        try:
            self._databases = list(_databases(schema, rows, gold))
            self._results = [_select(database, gold) for database in self._databases]
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise GoldFails(str(error)) from None
        self.empty = all(value is None for result in self._results for row in result for value in row)

    def accepts(self, prediction: str) -> bool:
        """Whether `prediction` gives the gold result: as a multiset of rows, or in order if the gold query orders."""
        try:
            return all(
                self._same(_select(database, prediction), result)
                for database, result in zip(self._databases, self._results, strict=True)
            )
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return False

    def _same(self, result: Result, gold: Result) -> bool:
        return result == gold if self._ordered else Counter(result) == Counter(gold)


def _is_ordered(query: str) -> bool:
    """Whether the outermost query has ORDER BY."""
    query = re.sub(r"'[^']*'|\"[^\"]*\"", "", query)
    nested = None
    while nested != query:
        nested, query = query, re.sub(r"\([^()]*\)", "", query)
    return re.search(r"\border\s+by\b", query, re.IGNORECASE) is not None


def _databases(schema: str, rows: str, gold: str) -> Iterator[sqlite3.Connection]:
    for number in range(1 if rows.strip() else _DATABASES):
        database = sqlite3.connect(":memory:")
        _limit(database, _may_build)
        database.executescript(schema)
        if rows.strip():
            database.executescript(rows)
        else:
            _fill(database, gold, seed=number)
        yield database


def _limit(database: sqlite3.Connection, authorizer: Any) -> None:
    """Give the next statements `authorizer`'s rights and a fresh allowance of steps."""
    checks = iter(range(_STEPS // _STEPS_BETWEEN_CHECKS))
    database.set_authorizer(authorizer)
    database.set_progress_handler(lambda: next(checks, None) is None, _STEPS_BETWEEN_CHECKS)


def _select(database: sqlite3.Connection, query: str) -> Result:
    _limit(database, _may_read)
    rows = database.execute(query).fetchmany(_RESULT_ROWS + 1)
    if len(rows) > _RESULT_ROWS:
        raise sqlite3.DataError(f"more than {_RESULT_ROWS} rows")
    return [tuple(_rounded(value) for value in row) for row in rows]


def _may_read(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    refused = action not in _READING or (action == sqlite3.SQLITE_FUNCTION and name in _REFUSED_FUNCTIONS)
    return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK


def _may_build(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action in _NOT_FOR_SCHEMAS else sqlite3.SQLITE_OK


def _rounded(value: Any) -> Any:
    """Floats to nine digits: sums depend on the order of the rows."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


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
