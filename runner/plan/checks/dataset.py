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
from runner.plan.checks import row_files, rows
from runner.plan.checks import template as prompt
from runner.plan.checks.row_formats import REQUIRED, UnknownFormat, is_written, recognise
from runner.plan.checks.rows import Row
from runner.plan.fingerprint import check_kind

_HINTS = {"evaluate.sql_schema": "; for answers that are not SQL, use evaluate=text"}
_LARGE = 32 * 2**20  # bytes; of more, only the first row of each file is read


def check(recipe: Recipe) -> None:
    """Raises RecipeError for a template without a column to learn, and for rows that lack its columns."""
    dataset = recipe.dataset
    if dataset.format and is_written(dataset.template):
        raise RecipeError(
            f"dataset.format: {dataset.format} has its own template; leave it out, or use an option without a "
            "template, such as dataset=files"
        )
    if is_written(dataset.template):
        _check_template(dataset.template)
    _check_mixture(dataset)
    if dataset.source != "files" or not dataset.path:
        return
    counts = [_check_files(recipe, "path", path) for path in dataset.paths]
    count = None if None in counts else sum(count or 0 for count in counts)
    if dataset.eval_path:
        _check_files(recipe, "eval_path", dataset.eval_path)
    elif count is not None and count <= dataset.eval_rows:
        raise RecipeError(
            f"dataset.eval_rows: {dataset.eval_rows} of the {count} rows in {', '.join(dataset.paths)}"
            f"{_condition(dataset)} leave nothing to train on; hold out fewer, or set dataset.eval_path to a file"
        )


def formats_of(dataset: Dataset) -> list[str]:
    """The formats of the rows: the one that the recipe names, or what the first row of each file shows.

    Empty where the recipe has a template, and where nothing can be seen from here: rows of the hub, and files that need
    a package of the stage programs.

    Raises RecipeError for columns of no known format.
    """
    if is_written(dataset.template):
        return []
    if dataset.format or dataset.source != "files" or not dataset.path:
        return [dataset.format] if dataset.format else []
    found = (file for path in dataset.paths for file in row_files.find(path, "dataset.path"))
    formats = (_format_of(file, "dataset.path") for file in found if file.is_file() and rows.can_be_read(file))
    return list(dict.fromkeys(formats))


def _format_of(path: Path, key: str) -> str:
    try:
        return recognise(_first(path, key, path.stat().st_mtime_ns).fields)
    except UnknownFormat as error:
        raise RecipeError(f"{key}: {path}: {error}") from None


def _check_template(template: Template) -> None:
    if template.turns:
        _check_turns(template)
    elif not prompt.has_placeholder(template.response):
        raise RecipeError('dataset.template.response: names no column to learn; try "{response}"')
    elif template.chat and not template.sections:
        raise RecipeError('dataset.template.sections: a chat needs the user\'s turn; try ["{question}"]')
    elif template.system is not None and not template.chat:
        raise RecipeError(
            "dataset.template.system: is only for chats; set dataset.template.chat=true, or make it the first section"
        )
    for key, text in _texts(template):
        _names(key, text, ())


def _check_turns(template: Template) -> None:
    for key in ("sections", "response"):
        if getattr(template, key):
            raise RecipeError(f"dataset.template.{key}: turns hold the prompts and answers; leave one of the two out")
    if template.chat is False:
        raise RecipeError("dataset.template.chat: turns are written with the chat template; leave it out")


def _texts(template: Template) -> list[tuple[str, str]]:
    """The texts of a template with their keys."""
    texts = [*(("sections", section) for section in template.sections), ("response", template.response)]
    return [(f"dataset.template.{key}", text) for key, text in [*texts, ("system", template.system or "")]]


def _names(key: str, text: str, columns: Collection[str]) -> list[str]:
    try:
        return prompt.names(text, columns)
    except prompt.AmbiguousBraces as error:
        raise RecipeError(f"{key}: {error}") from None


def _check_mixture(dataset: Dataset) -> None:
    weights, paths = dataset.weights, dataset.paths
    if weights and len(weights) != len(paths):
        raise RecipeError(f"dataset.weights: there are {len(weights)} for the {len(paths)} paths of dataset.path")
    if weights and (min(weights) < 0 or not sum(weights)):
        raise RecipeError("dataset.weights: each must be 0 or more, and one more than 0; for example [3,1]")
    for name in ("revision", "config"):
        if getattr(dataset, name) and len(paths) > 1:
            raise RecipeError(f"dataset.{name}: belongs to one hub id, and dataset.path names several; leave it out")


def _check_files(recipe: Recipe, name: str, named: str) -> int | None:
    """The number of rows that match dataset.where; None if it is not known. Raises RecipeError."""
    found = row_files.find(named, f"dataset.{name}")
    whole = sum(path.stat().st_size for path in found if path.is_file()) <= _LARGE
    counts = [_check_file(recipe, f"dataset.{name}", path, whole) for path in found]
    if None in counts:
        return None
    total = sum(count or 0 for count in counts)
    if not total:
        raise RecipeError(f"dataset.where: {named} has no row{_condition(recipe.dataset)}")
    return total


def _check_file(recipe: Recipe, key: str, path: Path, whole: bool) -> int | None:
    try:
        check_kind(path, key)
        if not _is_read_here(path, key):
            return None
        changed = path.stat().st_mtime_ns
        first = _first(path, key, changed)
        _check_format(recipe.dataset, path, key, first)
        named = _required_columns(recipe, first.fields)
        where = tuple(recipe.dataset.where.items())
        return _count(path, whole, changed, tuple(named), where)
    except rows.BadRow as error:
        raise RecipeError(f"{key}: {error}") from None
    except OSError as error:
        raise RecipeError(f"{key}: {path}: {error.strerror}") from None


def _check_format(dataset: Dataset, path: Path, key: str, first: Row) -> None:
    """The first row has the columns of its format; later ones without them are left out when it is tokenized."""
    if is_written(dataset.template):
        return
    for column in REQUIRED[dataset.format or _format_of(path, key)]:
        _check_column(first, "dataset.format", column)


def _is_read_here(path: Path, key: str) -> bool:
    if rows.suffixes(path)[0] not in DATA_SUFFIXES:
        raise RecipeError(f"{key}: {path}: the file name must end in one of {', '.join(DATA_SUFFIXES)}")
    return rows.can_be_read(path)


def _condition(dataset: Dataset) -> str:
    where = " and ".join(f"{column}={value}" for column, value in dataset.where.items())
    return f" with {where}" if where else ""


def _required_columns(recipe: Recipe, columns: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every key of the recipe that names a column, with the column. Raises RecipeError for a response without any."""
    template = recipe.dataset.template
    yield from (("dataset.template.turns", column) for column in template.turns)
    for key, text in _texts(template):
        names = _names(key, text, columns)
        if key == "dataset.template.response" and text and not names:
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
    path: Path, whole: bool, changed: int, columns: tuple[tuple[str, str], ...], where: tuple[tuple[str, str], ...]
) -> int | None:
    """Check the columns of every row and count those that match `where`; unless `whole`, check the first alone."""
    count = 0
    for row in rows.read(path):
        for key, column in columns:
            _check_column(row, key, column)
        if not whole:
            return None
        count += rows.matches(row.fields, dict(where))
    return count


def _check_column(row: Row, key: str, column: str) -> None:
    in_template = key.startswith("dataset.template.")
    if column not in row.fields:
        hint = f"; for the literal text {{{column}}}, write {{{{{column}}}}}" if in_template else _HINTS.get(key, "")
        raise RecipeError(f"{key}: {row.place} has no column {column!r}; {_nearest(column, row.fields)}{hint}")
    if in_template and not key.endswith(".turns") and isinstance(row.fields[column], (list, dict)):
        kind = type(row.fields[column]).__name__
        raise RecipeError(f"{key}: {row.place}: the column {column!r} contains a {kind}, not text; convert it first")


def _nearest(column: str, columns: Collection[str]) -> str:
    nearest = difflib.get_close_matches(column, columns, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"the columns are {', '.join(columns)}"
