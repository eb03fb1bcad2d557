"""The files of a data set on this machine, as the stage programs find them (scripts/common/data/row_files.py)."""

from __future__ import annotations

from collections.abc import Callable
from glob import glob
from operator import itemgetter
from pathlib import Path
from typing import Any

from runner.compose.schema import DATA_SUFFIXES
from runner.errors import RecipeError
from runner.plan.checks import json_file
from runner.plan.checks.rows import suffixes
from runner.plan.fingerprint import is_hidden

_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}


def named(name: str) -> list[Path]:
    """What a data set's path names: itself if it exists, else the files that it matches as a pattern.

    >>> named("no such file")
    [PosixPath('no such file')]
    """
    path = Path(name).expanduser()
    if path.exists():
        return [path]
    return sorted(map(Path, glob(str(path), recursive=True))) or [path]  # noqa: PTH207  absolute patterns too


def find(name: str, key: str) -> list[Path]:
    """The files that a data set's path names, and those of rows in a folder that it names.

    Raises RecipeError for a folder without any.
    """
    return [file for path in named(name) for file in (_of_folder(path, key) if path.is_dir() else [path])]


def _of_folder(folder: Path, key: str) -> list[Path]:
    if splits := _listed(folder / "dataset_dict.json", "splits", str, key):
        example = folder / splits[0]
        raise RecipeError(f"{key}: {folder}: holds the splits {', '.join(splits)}; name one, such as {example}")
    found = [folder / name for name in _listed(folder / "state.json", "_data_files", itemgetter("filename"), key)]
    found = found or [path for path in sorted(folder.rglob("*")) if _is_of_rows(path, folder)]
    if not found:
        raise RecipeError(
            f"{key}: {folder}: a folder without files of rows; their names end in one of {', '.join(DATA_SUFFIXES)}"
        )
    return found


def _listed(file: Path, name: str, name_of: Callable[[Any], str], key: str) -> list[str]:
    """The names in a list that `save_to_disk` has written to a file; none where it has not."""
    if not file.is_file():
        return []
    try:
        return [name_of(each) for each in json_file.read(file, key).get(name, [])]
    except (LookupError, TypeError):
        raise RecipeError(f"{key}: {file}: its {name} are not what save_to_disk writes") from None


def _is_of_rows(path: Path, folder: Path) -> bool:
    is_shown = path.is_file() and not is_hidden(path.relative_to(folder))
    return suffixes(path)[0] in DATA_SUFFIXES and path.name not in _NOT_ROWS and is_shown
