"""Checks that the recipe can be trained and evaluated on the rows of a local data set, before any work.

The stage programs check what is not cheap to read: rows on the hub, and all but the first of a large file.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Iterator
from pathlib import Path

from runner.compose.schema import DATA_SUFFIXES, Dataset, Recipe, Template
from runner.errors import RecipeError
from runner.plan.checks import rows
from runner.plan.checks import template as prompt
from runner.plan.checks.rows import Row

_HINTS = {"evaluate.sql_schema": "; for answers that are not SQL, use evaluate=text"}
_LARGE = 32 * 2**20  # bytes; only the first row of a larger file is read


def check(recipe: Recipe) -> None:
    """Raises RecipeError for a template without a column to learn, and for rows that lack its columns."""
    dataset = recipe.dataset
    _check_template(dataset.template)
    if dataset.source != "files" or not dataset.path:
        return
    count = _check_file(recipe, "path")
    if dataset.eval_path:
        _check_file(recipe, "eval_path")
    elif count is not None and count <= dataset.eval_rows:
        raise RecipeError(
            f"dataset.eval_rows: {dataset.eval_rows} of the {count} rows in {dataset.path}{_condition(dataset)} leave "
            "nothing to train on; hold out fewer, or set dataset.eval_path to a file"
        )


def _check_template(template: Template) -> None:
    if not prompt.has_placeholder(template.response):
        raise RecipeError('dataset.template.response: names no column to learn; try "{response}"')
    if template.system is not None and not template.chat:
        raise RecipeError(
            "dataset.template.system: is only for chats; set dataset.template.chat=true, or make it the first section"
        )
    for key, text in _texts(template):
        _names(key, text, ())


def _texts(template: Template) -> list[tuple[str, str]]:
    """The texts of a template with their keys."""
    texts = [*(("sections", section) for section in template.sections), ("response", template.response)]
    return [(f"dataset.template.{key}", text) for key, text in [*texts, ("system", template.system or "")]]


def _names(key: str, text: str, columns: Collection[str]) -> list[str]:
    try:
        return prompt.names(text, columns)
    except prompt.AmbiguousBraces as error:
        raise RecipeError(f"{key}: {error}") from None


def _check_file(recipe: Recipe, name: str) -> int | None:
    """The number of rows that match dataset.where; None if it is not known. Raises RecipeError."""
    key, dataset = f"dataset.{name}", recipe.dataset
    path = Path(getattr(dataset, name)).expanduser()
    try:
        status = path.stat()
        _check_kind(path, key)
        if not rows.can_be_read(path):
            return None
        columns = _required_columns(recipe, _first(path, key, status.st_mtime_ns).fields)
        count = _count(path, status.st_size, status.st_mtime_ns, tuple(columns), tuple(dataset.where.items()))
    except rows.BadRow as error:
        raise RecipeError(f"{key}: {error}") from None
    except OSError as error:
        raise RecipeError(f"{key}: {path}: {error.strerror}") from None
    if count == 0:
        raise RecipeError(f"dataset.where: {path} has no row{_condition(dataset)}")
    return count


def _check_kind(path: Path, key: str) -> None:
    if path.is_dir():
        raise RecipeError(f"{key}: {path}: is a folder; set it to a file in that folder")
    if path.suffix not in DATA_SUFFIXES:
        raise RecipeError(f"{key}: {path}: the file name must end in one of {', '.join(DATA_SUFFIXES)}")


def _condition(dataset: Dataset) -> str:
    where = " and ".join(f"{column}={value}" for column, value in dataset.where.items())
    return f" with {where}" if where else ""


def _required_columns(recipe: Recipe, columns: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every key of the recipe that names a column, with the column. Raises RecipeError for a response without any."""
    for key, text in _texts(recipe.dataset.template):
        names = _names(key, text, columns)
        if key == "dataset.template.response" and not names:
            raise RecipeError(f"{key}: {text!r} names none of the columns {', '.join(columns)}")
        yield from ((key, name) for name in names)
    yield from (("dataset.where", column) for column in recipe.dataset.where)
    if recipe.evaluate.enabled and "sql" in recipe.evaluate.metrics:
        yield "evaluate.sql_schema", recipe.evaluate.sql_schema


@functools.cache  # the trials of a sweep have the same data
def _first(path: Path, key: str, changed: int) -> Row:
    row = next(rows.read(path), None)
    if row is None:
        raise RecipeError(f"{key}: {path}: contains no rows")
    return row


@functools.cache
def _count(
    path: Path, size: int, changed: int, columns: tuple[tuple[str, str], ...], where: tuple[tuple[str, str], ...]
) -> int | None:
    """Check the columns of every row and count the rows that match `where`; None for a large file."""
    count = 0
    for row in rows.read(path):
        for key, column in columns:
            _check_column(row, key, column)
        if size > _LARGE:
            return None
        count += rows.matches(row.fields, dict(where))
    return count


def _check_column(row: Row, key: str, column: str) -> None:
    in_template = key.startswith("dataset.template.")
    if column not in row.fields:
        hint = f"; for the literal text {{{column}}}, write {{{{{column}}}}}" if in_template else _HINTS.get(key, "")
        raise RecipeError(f"{key}: {row.place} has no column {column!r}; {_nearest(column, row.fields)}{hint}")
    if in_template and isinstance(row.fields[column], (list, dict)):
        kind = type(row.fields[column]).__name__
        raise RecipeError(f"{key}: {row.place}: the column {column!r} contains a {kind}, not text; convert it first")


def _nearest(column: str, columns: Collection[str]) -> str:
    nearest = difflib.get_close_matches(column, columns, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"the columns are {', '.join(columns)}"
