"""The files of a data set that is given as files, folders or patterns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from glob import glob
from operator import itemgetter
from pathlib import Path
from typing import Any

from common.data import rows
from common.files import read_json
from common.program import BadInput

_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}


def find(names: Iterable[str], flag: str) -> list[Path]:
    """The files behind each name, in the order of their paths.

    A name that exists is a file or a folder, whatever its characters; of a folder all files of rows are taken, of one
    by `save_to_disk` those that it lists. Only a name that does not exist is read as a pattern (*, ?, **).

    Raises BadInput for a name without files.
    """
    return [path for name in names for path in _files(name, flag)]


def _files(name: str, flag: str) -> list[Path]:
    path = Path(name)
    if os.path.isfile(name):  # noqa: PTH113  pathlib raises for a name that is too long
        return [path]
    is_folder = os.path.isdir(name)  # noqa: PTH112
    found = _of_folder(path) if is_folder else sorted(map(Path, glob(name, recursive=True)))  # noqa: PTH207  absolute patterns too
    found = [file for file in found if file.is_file()]
    if not found:
        raise BadInput(f"{flag} {name}: {'a folder without files of rows' if is_folder else 'no such file'}")
    return found


def _of_folder(folder: Path) -> list[Path]:
    if splits := _listed(folder / "dataset_dict.json", "splits", str):
        raise BadInput(f"{folder}: holds the splits {', '.join(splits)}; name one, such as {folder / splits[0]}")
    saved = [folder / name for name in _listed(folder / "state.json", "_data_files", itemgetter("filename"))]
    return saved or [path for path in sorted(folder.rglob("*")) if _is_of_rows(path, folder)]


def _listed(file: Path, name: str, name_of: Callable[[Any], str]) -> list[str]:
    """The names in a list that `save_to_disk` has written to a file; none where it has not."""
    if not file.is_file():
        return []
    try:
        return [name_of(each) for each in read_json(file).get(name, [])]
    except (LookupError, TypeError):
        raise BadInput(f"{file}: its {name} are not what save_to_disk writes") from None


def _is_of_rows(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return rows.suffixes(path)[0] in rows.READERS and path.name not in _NOT_ROWS and not hidden
