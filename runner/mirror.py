"""The event stream of a run elsewhere, as far as it was heard, in the record here."""

from __future__ import annotations

import fcntl
from pathlib import Path


class Mirror:
    """`heard` are its lines so far, `size` their bytes; a context that holds the file.

    Of several who follow a run into the same record, the first one writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Mirror:
        self._file = self._path.open("r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._writes = True
        except BlockingIOError:
            self._writes = False
        content = self._file.read()
        self.size = content.rfind(b"\n") + 1
        self.heard = content[: self.size].splitlines()
        if self._writes:
            self._file.truncate(self.size)  # of a line that a kill cut short
            self._file.seek(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: bytes) -> None:
        """Keep what was heard."""
        if self._writes:
            self._file.write(line + b"\n")
        self.size += len(line) + 1
