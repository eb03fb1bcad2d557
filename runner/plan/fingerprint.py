"""Hashes of what a step depends on besides its options: the content of files, and the source of programs."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import accumulate
from pathlib import Path

from runner.errors import RecipeError
from runner.execute import files
from runner.execute.survey import kept_digest

_LARGE = 64 * 2**20  # bytes; the digest of a larger file is cached by its path, size and modification time

# Import statements at the start of a line, with what is in parentheses: parsing whole programs takes half a second.
_IMPORT = re.compile(r"^[ \t]*(?:from|import)\b(?:[^\n(\\]|\\\n)*(?:\((?:[^)#]|#[^\n]*)*\))?.*", re.MULTILINE)


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


def hash_path(path: Path, key: str, digest: Callable[[Path], str]) -> str:
    """The hash of a file's content, or of all files in a folder, from the `digest` of each.

    Raises RecipeError that names `key`, the recipe's.
    """
    try:
        check_kind(path, key)
        return _hash_folder(path, digest) if path.is_dir() else digest(path)
    except FileNotFoundError:
        raise RecipeError(f"{key}: {path}: no such file or folder") from None
    except OSError as error:
        raise RecipeError(f"{key}: {path}: {error.strerror}") from None


def check_kind(path: Path, key: str) -> None:
    """Raise RecipeError for a pipe, a device or a socket: it may never end, and has another content the second time.

    Raises OSError for a missing file.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise RecipeError(f"{key}: {path}: neither a file nor a folder; write what it yields to a file, and name that")


def _hash_folder(folder: Path, digest: Callable[[Path], str]) -> str:
    found = sorted(file for file in folder.rglob("*") if file.is_file() and not is_hidden(file.relative_to(folder)))
    return hash_text(*(part for file in found for part in (str(file.relative_to(folder)), digest(file))))


def is_hidden(path: Path) -> bool:
    """Whether a file, by its path in a data set or a model, or one of its folders has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def hash_file(path: Path, digest_cache: Path) -> str:
    """The digest of a file's content.

    `digest_cache` is a folder that keeps the digests of large files. It is used where its parent folder exists.
    """
    status = path.stat()
    if status.st_size < _LARGE or not digest_cache.parent.is_dir():
        return files.digest(path)
    entry = digest_cache / hash_text(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
    kept = kept_digest(entry)
    if not kept:
        kept = files.digest(path)
        digest_cache.mkdir(exist_ok=True)
        files.write_atomic(entry, kept)
    return kept


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
    sources = _sources(folder)
    names = {name for module in _modules(_read(path)) for name in _with_parents(module)}
    return {file for name in names for file in sources.get(name, ())}


@cache
def _sources(folder: Path) -> Mapping[str, list[Path]]:
    """The files in a folder that importing a module runs, by its dotted name; of a package, its __init__.py."""
    files = defaultdict(list)
    for path in folder.rglob("*.py"):
        module = path.parent if path.name == "__init__.py" else path.with_suffix("")
        files[".".join(module.relative_to(folder).parts)].append(path)
    return files


def _with_parents(module: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` for `a.b.c`."""
    return accumulate(module.split("."), "{}.{}".format)


def _modules(source: str) -> set[str]:
    """Names of the modules that Python source may import."""
    modules = set()
    for statement in _IMPORT.findall(source):
        with suppress(SyntaxError):  # a line of a docstring
            for node in ast.parse(statement.strip()).body:
                if isinstance(node, ast.Import):
                    modules |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules
