"""What lies at paths of this machine, for a plan that is made on another one. The text of this file is sent there.

    python3 -c TEXT FOLDER PATTERN...

Prints JSON lines, and an empty one now and then while it reads large files:

    {"missing": PATTERN}    nothing is there
    {"folder": PATH}        a folder; its files follow, without hidden ones
    {"path": PATH, "size": BYTES, "digest": SHA-256, "content": TEXT}

TEXT is, compressed and in base64, what checks read before a run: all of a small file, the header of safetensors, the
first rows of a large file of rows. FOLDER/digests keeps the digests of large files.

Standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

SMALL, ROWS = 2**20, 32 * 2**20  # bytes of a file that is sent whole: of any one, and of one that is named itself
_LARGE = 64 * 2**20  # bytes; the digest of a larger file is kept
_LONGEST_HEADER = 100 * 2**20  # bytes that a header of safetensors may have
_BY_LINES = (".jsonl", ".ndjson", ".csv", ".tsv")
_HEARTBEAT = 2.0  # seconds
_DIGEST = re.compile("[0-9a-f]{64}")

Line = dict[str, Any]  # an empty one is a sign of life


def survey(patterns: Sequence[str], cache: Path) -> Iterator[Line]:
    """Report on files and folders; a name that does not exist is a pattern, as for a shell. Raises OSError."""
    for pattern in patterns:
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not found:
            yield {"missing": pattern}
        for path in map(Path, found):
            yield from _folder(path, cache) if path.is_dir() else _file(path, cache, ROWS)


def _folder(folder: Path, cache: Path) -> Iterator[Line]:
    yield {"folder": str(folder)}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield from _file(path, cache, SMALL)


def _file(path: Path, cache: Path, whole: int) -> Iterator[Line]:
    size, content = path.stat().st_size, _packed(path, whole)
    for digest in _digest(path, cache):
        yield {"path": str(path), "size": size, "digest": digest, "content": content} if digest else {}


def _packed(path: Path, whole: int) -> str:
    with path.open("rb") as file:
        return packed(file, path.suffix, path.stat().st_size, whole)


def packed(file: IO[bytes], suffix: str, size: int, whole: int) -> str:
    """The content of an open file that checks read, as a line has it; all of one of at most `whole` bytes."""
    return base64.b64encode(zlib.compress(_content(file, suffix, size, whole))).decode()


def _content(file: IO[bytes], suffix: str, size: int, whole: int) -> bytes:
    if size <= whole:
        return file.read()
    if suffix == ".safetensors":
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
    if suffix in _BY_LINES and whole == ROWS:
        head, newline, _ = file.read(SMALL).rpartition(b"\n")
        return head + newline
    return b""


def _digest(path: Path, cache: Path) -> Iterator[str]:
    """The digest at last; an empty text now and then before it."""
    status = path.stat()
    name = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns])
    entry = cache / hashlib.sha256(name.encode()).hexdigest()
    if kept := kept_digest(entry):
        yield kept
        return
    sha, spoke = hashlib.sha256(), time.monotonic()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            sha.update(chunk)
            if time.monotonic() - spoke > _HEARTBEAT:
                spoke = time.monotonic()
                yield ""
    if status.st_size >= _LARGE:
        _keep(entry, sha.hexdigest())
    yield sha.hexdigest()


def kept_digest(entry: Path) -> str:
    """The digest that a file keeps; an empty text where there is no such file, or it is damaged."""
    with contextlib.suppress(FileNotFoundError):
        text = entry.read_bytes().decode(errors="replace")
        return text if _DIGEST.fullmatch(text) else ""
    return ""


def _keep(entry: Path, digest: str) -> None:
    os.umask(0o077)
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.write_text(digest, encoding="utf-8")


def main(folder: str, *patterns: str) -> None:
    """Entry point: FOLDER PATTERN..."""
    try:
        for line in survey(patterns, Path(folder, "digests")):
            print(json.dumps(line) if line else "", flush=True)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
