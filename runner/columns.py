"""Whether the rows of a local data set have the columns that the recipe names: a look at the first, before any work.

What cannot be seen so cheaply (rows of a hub, Parquet, a later row that lacks a column) the stage programs find.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from runner.errors import RecipeError, did_you_mean
from runner.schema import Dataset, Recipe, Template

_COLUMN = re.compile(r"\{(\w[\w .-]*)\}")  # as in scripts/common/prompt.py
_LARGE = 64 * 2**20  # bytes; a larger JSON array is not parsed to see one row


def check(recipe: Recipe) -> None:
    """Raises RecipeError for a template that teaches nothing, and for a column that is not there."""
    dataset = recipe.dataset
    _check_template(dataset.template)
    if dataset.source != "files" or not dataset.path:
        return
    for key in ("path", "eval_path"):
        path = getattr(dataset, key)
        columns = _columns(Path(path).expanduser(), f"dataset.{key}") if path else None
        for named_by, column in _named(recipe):
            if columns and column not in columns:
                raise RecipeError(f"{named_by}: {path} has no column {column!r}; {did_you_mean(column, columns)}")
    if not dataset.eval_path:
        _check_count(dataset)


def _check_template(template: Template) -> None:
    if not _COLUMN.search(template.response):
        raise RecipeError('dataset.template.response: names no column to learn; for example "{response}"')
    if template.system is not None and not template.chat:
        raise RecipeError(
            "dataset.template.system: is a turn of a chat; say dataset.template.chat=true, or make it the first section"
        )


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every column that the recipe names, with the key that does."""
    template = recipe.dataset.template
    for key, text in [
        *(("sections", section) for section in template.sections),
        ("response", template.response),
        ("system", template.system or ""),
    ]:
        yield from ((f"dataset.template.{key}", column) for column in _COLUMN.findall(text))
    yield from (("dataset.where", column) for column in recipe.dataset.where)
    if recipe.evaluate.enabled and "sql" in recipe.evaluate.metrics:
        yield "evaluate.sql_schema", recipe.evaluate.sql_schema


def _columns(path: Path, key: str) -> list[str] | None:
    """The columns of the first row; None where they are not looked at."""
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as stream:
                return next(csv.reader(stream), None)
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as stream:
                return _keys(json.loads(next((line for line in stream if line.strip()), "null")))
        if path.suffix == ".json" and path.stat().st_size < _LARGE:
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
            return _keys(rows[0] if isinstance(rows, list) and rows else None)
    except ValueError as error:
        raise RecipeError(f"{key}: {path}: {error}") from None
    except OSError as error:
        raise RecipeError(f"{key}: {path}: {error.strerror}") from None
    return None


def _keys(row: object) -> list[str] | None:
    return list(row) if isinstance(row, dict) else None


def _check_count(dataset: Dataset) -> None:
    """Of JSONL, whose rows are counted in no time; conditions leave fewer, which only the stage can say."""
    path = Path(dataset.path).expanduser()
    if path.suffix != ".jsonl":
        return
    with path.open("rb") as stream:
        rows = sum(1 for line in stream if line.strip())
    if rows <= dataset.eval_rows:
        raise RecipeError(
            f"dataset.eval_rows: {dataset.eval_rows} of the {rows} rows in {path} leave nothing to train on; "
            f"hold out fewer, or name a file with dataset.eval_path"
        )
