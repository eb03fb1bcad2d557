"""What a step depends on besides its options: the content of files, and the source of programs."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from runner.errors import RecipeError
from runner.execute.files import write_atomic

_LARGE = 64 * 2**20  # bytes; the digest of a larger file is remembered, by size and time of change


def of_text(*parts: str) -> str:
    """The hex SHA-256 of texts; where one ends and the next begins counts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def of_program(program: Path) -> str:
    """Of a stage program: its source, that of every module of its folder that it imports, to any depth, and their data.

    The data of a module lies beside it, under its name. Paths count from the program's folder.
    """
    program = program.resolve()
    modules = _imported(program)
    sources = sorted({*modules, *(data for module in modules if (data := module.with_suffix(".json")).is_file())})
    return of_text(*(text for path in sources for text in (_relative(path, program), path.read_text(encoding="utf-8"))))


def _relative(path: Path, program: Path) -> str:
    return path.relative_to(program.parent).as_posix()


def of_path(path: Path, key: str, memory: Path) -> str:
    """Of the content of a file, or of all files in a folder. `key` is the recipe's, for the error line.

    `memory` is a folder that keeps the digests of large files, if the folder that it lies in is there.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
            return of_text(*(text for file in files for text in (str(file.relative_to(path)), _of_file(file, memory))))
        return _of_file(path, memory)
    except FileNotFoundError:
        raise RecipeError(f"{key}: {path}: no such file or folder") from None
    except OSError as error:
        raise RecipeError(f"{key}: {path}: {error.strerror}") from None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _of_file(path: Path, memory: Path) -> str:
    status = path.stat()
    if status.st_size < _LARGE or not memory.parent.is_dir():
        return _digest(path)
    note = memory / of_text(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
    if not note.is_file():
        digest = _digest(path)
        memory.mkdir(exist_ok=True)
        write_atomic(note, digest)
    return note.read_text(encoding="utf-8")


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            sha.update(chunk)
    return sha.hexdigest()


@cache
def _imported(program: Path) -> frozenset[Path]:
    found, todo = set(), {program}
    while todo:
        path = todo.pop()
        found.add(path)
        todo |= {file for file in _local_imports(path, program.parent) if file not in found}
    return frozenset(found)


@cache  # programs share most of what they import
def _local_imports(path: Path, folder: Path) -> set[Path]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for module in modules for file in _files(folder, module) if file.is_file()}


def _files(folder: Path, module: str) -> Iterator[Path]:
    """What importing `a.b` runs: a/__init__.py, and a/b.py or a/b/__init__.py."""
    path = folder.joinpath(*module.split("."))
    yield path.with_suffix(".py")
    yield from (above / "__init__.py" for above in (path, *path.parents) if above.is_relative_to(folder))
