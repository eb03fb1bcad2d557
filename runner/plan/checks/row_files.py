"""The files of a data set on this machine, as the stage programs find them (scripts/common/data/row_files.py)."""

from __future__ import annotations

import json
from glob import glob
from pathlib import Path

from runner.compose.schema import DATA_SUFFIXES
from runner.errors import RecipeError
from runner.plan.checks.rows import suffixes

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
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise RecipeError(f"{key}: {folder}: holds the splits {', '.join(splits)}; name the folder of one")
    found = _listed(folder / "state.json", key)
    found = found or [path for path in sorted(folder.rglob("*")) if _is_of_rows(path, folder)]
    if not found:
        raise RecipeError(
            f"{key}: {folder}: a folder without files of rows; their names end in one of {', '.join(DATA_SUFFIXES)}"
        )
    return found


def _listed(state: Path, key: str) -> list[Path]:
    """The files that `save_to_disk` lists; none where it has not written the folder."""
    if not state.is_file():
        return []
    try:
        return [state.parent / each["filename"] for each in json.loads(state.read_bytes()).get("_data_files", [])]
    except (ValueError, RecursionError):
        raise RecipeError(f"{key}: {state}: not JSON") from None
    except (LookupError, TypeError, AttributeError):
        raise RecipeError(f"{key}: {state}: its _data_files are not what save_to_disk writes") from None


def _is_of_rows(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return suffixes(path)[0] in DATA_SUFFIXES and path.name not in _NOT_ROWS and not hidden and path.is_file()
