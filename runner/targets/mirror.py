"""The record here of a run elsewhere: its event stream as far as it was heard, and what is brought of its results."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from runner.execute import files


class Mirror:
    """The event stream of a run elsewhere as far as it was heard: `heard` lines, `size` bytes, the run's `last_word`.

    Of several who follow a run into the same record, the first one writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Mirror:
        self._file = self._path.open("r+b", buffering=0)
        self._writes = files.try_lock(self._file)
        content = self._file.read()
        self.size = content.rfind(b"\n") + 1
        self.heard = content[: self.size].splitlines()
        self.last_word: str | None = None
        for line in self.heard:
            self._listen(line)
        if self._writes:
            self._file.truncate(self.size)  # of a line that a kill cut short
            self._file.seek(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: bytes) -> None:
        if self._writes:
            self._file.write(line + b"\n")
        self.size += len(line) + 1
        self._listen(line)

    def _listen(self, line: bytes) -> None:
        event = json.loads(line)
        if event["event"] == "run":
            self.last_word = event["state"]


def unpack(packed: bytes, folder: Path) -> None:
    """Put what came into a record: aside first, so that a cut link leaves nothing half."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as aside:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(aside, filter="data")
        shutil.copytree(aside, folder, dirs_exist_ok=True)


def note(text: str) -> bytes:
    """A warning as an event, for whoever follows; it is no part of the record."""
    return json.dumps({"event": "log", "level": "warning", "message": text}).encode()
