"""The files of a data set that is given as files, folders or patterns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from glob import glob
from pathlib import Path

from common.data import rows
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
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        raise BadInput(f"{folder}: holds the splits {', '.join(splits)}; name one, such as {folder / str(splits[0])}")
    state = folder / "state.json"
    if state.is_file():
        listed = json.loads(state.read_text(encoding="utf-8")).get("_data_files", [])
        return [folder / each["filename"] for each in listed]
    inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")))
    visible = (path for path in inside if not any(part.startswith(".") for part in path.parts))
    return [folder / path for path in visible if rows.suffixes(path)[0] in rows.READERS and path.name not in _NOT_ROWS]
