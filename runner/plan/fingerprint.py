"""Hashes of what a step depends on besides its options: the content of files, and the source of programs."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from runner.errors import RecipeError
from runner.execute.files import write_atomic

_LARGE = 64 * 2**20  # bytes; the digest of a larger file is cached by its path, size and modification time


def hash_text(*parts: str) -> str:
    """The hex SHA-256 of texts. The boundaries between them count: ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def hash_program(program: Path) -> str:
    """The hash of a stage program and of every module in its folder that it imports, directly or not.

    A JSON file with a module's name beside it is data of that module, and counts too. Paths are relative to the
    program's folder, so a checkout elsewhere has the same hash, and a module that moves changes it.
    """
    program = program.resolve()
    modules = _imported(program)
    sources = sorted({*modules, *(data for module in modules if (data := module.with_suffix(".json")).is_file())})
    return hash_text(*(part for source in sources for part in (_relative(source, program), _read(source))))


def _relative(path: Path, program: Path) -> str:
    return path.relative_to(program.parent).as_posix()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def hash_path(path: Path, key: str, digest_cache: Path) -> str:
    """The hash of a file's content, or of all files in a folder. Raises RecipeError that names `key`, the recipe's.

    `digest_cache` is a folder that keeps the digests of large files. It is used where its parent folder exists.
    """
    try:
        if path.is_dir():
            return _hash_folder(path, digest_cache)
        return _hash_file(path, digest_cache)
    except FileNotFoundError:
        raise RecipeError(f"{key}: {path}: no such file or folder") from None
    except OSError as error:
        raise RecipeError(f"{key}: {path}: {error.strerror}") from None


def _hash_folder(folder: Path, digest_cache: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _hidden(file.relative_to(folder)))
    return hash_text(
        *(part for file in files for part in (str(file.relative_to(folder)), _hash_file(file, digest_cache)))
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _hash_file(path: Path, digest_cache: Path) -> str:
    status = path.stat()
    if status.st_size < _LARGE or not digest_cache.parent.is_dir():
        return _digest(path)
    entry = digest_cache / hash_text(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
    if not entry.is_file():
        digest_cache.mkdir(exist_ok=True)
        write_atomic(entry, _digest(path))
    return entry.read_text(encoding="utf-8")


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            sha.update(chunk)
    return sha.hexdigest()


@cache
def _imported(program: Path) -> frozenset[Path]:
    visited, pending = set(), {program}
    while pending:
        path = pending.pop()
        visited.add(path)
        pending |= _local_imports(path, program.parent) - visited
    return frozenset(visited)


@cache  # programs share most of what they import
def _local_imports(path: Path, folder: Path) -> set[Path]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for module in modules for file in _module_files(folder, module) if file.is_file()}


def _module_files(folder: Path, module: str) -> Iterator[Path]:
    """The files that importing `a.b` may run: a/__init__.py, and a/b.py or a/b/__init__.py."""
    path = folder.joinpath(*module.split("."))
    yield path.with_suffix(".py")
    yield from (package / "__init__.py" for package in (path, *path.parents) if package.is_relative_to(folder))
