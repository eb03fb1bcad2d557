"""The store: finished artifacts, each in a folder named by its fingerprint. Standard library alone.

    objects/train-3f9a...     complete, never changed again
    partial/train-3f9a...     being made; kept after a kill, so that a stage can resume from it
    locks/train-3f9a....lock  locked by the run that makes it

An artifact is in objects/ complete or not at all: it is made in partial/, synced and renamed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.execute import files


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
        """Whether the artifact `key` is finished."""
        return self.path(key).is_dir()

    @contextlib.contextmanager
    def lock(self, key: str, on_wait: Callable[[str], None], holder: str) -> Iterator[int]:
        """Be the only one to make `key`; yields the lock's file descriptor.

        Waits for another maker, after a call of `on_wait` with the `holder` that it gave. A process that inherits
        the descriptor keeps the lock for as long as it lives, even if the executor is killed.
        """
        file = self.root / "locks" / f"{key}.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not files.try_lock(descriptor):
                on_wait(os.pread(descriptor, 4096, 0).decode())
                files.lock(descriptor)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def prepare(self, key: str, keep: bool) -> Path:
        """The folder to make `key` in; what an earlier attempt left there is kept or removed."""
        folder = self.partial(key)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, key: str) -> Path:
        """Sync `key` to the disk and move it from partial/ to objects/."""
        source, finished = self.partial(key), self.path(key)
        for path in source.rglob("*"):
            if not path.is_symlink():
                _sync(path)
        _sync(source)
        finished.parent.mkdir(parents=True, exist_ok=True)
        source.rename(finished)
        _sync(finished.parent)
        return finished

    def take(self, key: str, destination: Path) -> None:
        """Move `key` from partial/ to a folder outside the store, which it replaces."""
        shutil.rmtree(destination, ignore_errors=True)
        shutil.move(self.partial(key), destination)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
