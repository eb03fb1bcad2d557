"""The files of a data set that is given as files, folders or patterns."""

from __future__ import annotations

import os
from collections.abc import Iterable
from glob import glob
from pathlib import Path

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
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise BadInput(f"{folder}: holds the splits {', '.join(splits)}; name the folder of one")
    return _listed(folder / "state.json") or [path for path in sorted(folder.rglob("*")) if _is_of_rows(path, folder)]


def _listed(state: Path) -> list[Path]:
    """The files that `save_to_disk` lists; none where it has not written the folder."""
    if not state.is_file():
        return []
    try:
        return [state.parent / each["filename"] for each in read_json(state).get("_data_files", [])]
    except (LookupError, TypeError):
        raise BadInput(f"{state}: its _data_files are not what save_to_disk writes") from None


def _is_of_rows(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return rows.suffixes(path)[0] in rows.READERS and path.name not in _NOT_ROWS and not hidden
