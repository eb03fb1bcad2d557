"""The store: finished artifacts, each in a folder named by its fingerprint. Standard library alone.

    objects/train-3f9a...     complete, never changed again
    sums/train-3f9a....json   the size and SHA-256 of each of its files, by which damage is noticed
    partial/train-3f9a...     being made; kept after a kill, so that a stage can resume from it
    incoming/train-3f9a...    being copied from a remote store
    damaged/train-3f9a...     was in objects/ until its files were found to differ from sums/
    locks/train-3f9a....lock  locked by the run that makes it
    uses/                     a file for each run in progress: the artifacts that it needs

An artifact is in objects/ complete or not at all: it is made in partial/, synced and renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.execute import files

# What the Neuron compiler made: see runner.plan.stages.server_options and runner.plan.command.
COMPILED, CACHE = "compiled", "neuron-cache"


class Store:
    """The artifacts below the folder `root`, which need not exist yet."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def path(self, key: str) -> Path:
        """Where the finished artifact `key` is, or will be."""
        return self.root / "objects" / key

    def partial(self, key: str) -> Path:
        """Where the artifact `key` is made."""
        return self.root / "partial" / key

    def has(self, key: str) -> bool:
        """Whether the artifact `key` is finished, and all of its files have the sizes that they had then."""
        return files.is_folder(self.path(key)) and not self.damage(key)

    def incoming(self, key: str) -> Path:
        """Where the artifact `key` of a remote store is copied to."""
        return self.root / "incoming" / key

    def damage(self, key: str, digests: bool = False) -> str:
        """What is wrong with the files of a finished artifact; empty if nothing is. With `digests`, all are read.

        Of an artifact of an earlier version, which has no sums, it is only known that it must not be empty.
        """
        folder, sums = self.path(key), self.sums(key)
        if sums is None:
            return "" if any(folder.iterdir()) else "it is empty"
        problems = (_problem(folder / name, *expected, digests) for name, expected in sums.items())
        return next(filter(None, problems), "")

    def sums(self, key: str) -> dict[str, tuple[int, str]] | None:
        """Size and SHA-256 of each file of an artifact; None for one of an earlier version."""
        try:
            return json.loads(self.sums_file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def sums_file(self, key: str) -> Path:
        """Where `sums` of an artifact are."""
        return self.root / "sums" / f"{key}.json"

    def forget_sums(self) -> None:
        """Remove the sums of artifacts that are neither finished nor being made."""
        for file in (self.root / "sums").glob("*"):
            key = file.name.removeprefix(".").partition(".json")[0]
            if not self.path(key).exists() and not self.is_being_made(key):
                file.unlink(missing_ok=True)

    def set_aside(self, key: str) -> Path:
        """Move a damaged artifact out of objects/, so that it is made again; returns where it is."""
        folder = self.root / "damaged"
        folder.mkdir(exist_ok=True)
        moved = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=folder))
        self.path(key).rename(moved)
        return moved

    @contextlib.contextmanager
    def lock(self, key: str, on_wait: Callable[[str], None], holder: str) -> Iterator[int]:
        """Be the only one to make `key`; yields the lock's file descriptor.

        Waits for another maker, after a call of `on_wait` with the `holder` that it gave. A process that inherits
        the descriptor keeps the lock for as long as it lives, even if the executor is killed.
        """
        descriptor = files.open_lock(self._lock_file(key))
        try:
            if not files.try_lock(descriptor):
                on_wait(os.pread(descriptor, 4096, 0).decode(errors="replace"))
                files.lock(descriptor)
            files.name_holder(descriptor, holder)
            yield descriptor
        finally:
            os.close(descriptor)

    def _lock_file(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    @contextlib.contextmanager
    def using(self, names: Iterable[str]) -> Iterator[tuple[int, ...]]:
        """Keep `runner gc` from removing these names; yields the file descriptors that do.

        A process that inherits them keeps the names for as long as it lives. A store that cannot be written to, because
        it is another user's or full, is used without that.
        """
        try:
            descriptor, path = self._declare(names)
        except OSError:
            yield ()
            return
        try:
            yield (descriptor,)
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()

    def _declare(self, names: Iterable[str]) -> tuple[int, Path]:
        folder = self.root / "uses"
        folder.mkdir(parents=True, exist_ok=True)
        with self._changing_uses():
            descriptor, path = tempfile.mkstemp(dir=folder)
            os.fchmod(descriptor, 0o644)
            files.lock(descriptor)
            os.write(descriptor, json.dumps(sorted(names)).encode())
        return descriptor, Path(path)

    @contextlib.contextmanager
    def freeing(self) -> Iterator[set[str]]:
        """Yields the names that runs in progress need; no run begins to use the store until this ends."""
        with self._changing_uses():
            yield {name for path in (self.root / "uses").glob("*") for name in _declared(path)}

    @contextlib.contextmanager
    def _changing_uses(self) -> Iterator[None]:
        descriptor = files.open_lock(self.root / "locks" / "uses")
        try:
            files.lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def is_being_made(self, key: str) -> bool:
        """Whether a run makes `key` now."""
        return files.lock_holder(self._lock_file(key)) is not None

    def prepare(self, key: str, keep: bool) -> Path:
        """The folder to make `key` in; what an earlier attempt left there is kept or removed."""
        folder = self.partial(key)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, key: str, source: Path | None = None) -> Path:
        """Record the sums of `key`, sync it to the disk and move it from `source`, or partial/, to objects/."""
        source, finished = source or self.partial(key), self.path(key)
        self.sums_file(key).parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(self.sums_file(key), json.dumps(_sums(source), indent=1))
        files.sync_tree(source)
        finished.parent.mkdir(parents=True, exist_ok=True)
        source.rename(finished)
        files.sync(finished.parent)
        return finished

    def take(self, key: str, destination: Path) -> None:
        """Move `key` from partial/ to a folder outside the store, which it replaces."""
        shutil.rmtree(destination, ignore_errors=True)
        shutil.move(self.partial(key), destination)


def names_used(plan: Mapping[str, Any]) -> set[str]:
    """The names in the store that a plan (as in plan.json) needs: artifacts, and the folders of the compiler."""
    values = [value for step in plan["steps"] for value in (*step["argv"], *step["env"].values())]
    pattern = re.compile(rf"{re.escape(str(plan['store']))}/(?:objects/([^/]+)|({COMPILED}|{CACHE})\b)")
    found = {match[1] or match[2] for value in values for match in pattern.finditer(value)}
    return found | {step["key"] for step in plan["steps"]}


def _sums(folder: Path) -> dict[str, tuple[int, str]]:
    regular = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, files.digest(path)) for path in regular}


def _problem(path: Path, size: int, digest: str, compare_digests: bool) -> str:
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    if found != size:
        return f"{path.name} has {found} bytes, not {size}"
    return f"the content of {path.name} has changed" if compare_digests and files.digest(path) != digest else ""


def _declared(path: Path) -> list[str]:
    """The names that a run in progress needs; the file of one that has ended is removed."""
    text = files.lock_holder(path)
    if text is None:
        path.unlink(missing_ok=True)
        return []
    return json.loads(text)
