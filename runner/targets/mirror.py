"""The record on this machine of a run elsewhere: its event stream so far, and the results that were fetched."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

from runner.execute import files
from runner.execute.run_folder import parse_event
from runner.record.create import incoming


class Mirror:
    """A local copy of the event stream of a run elsewhere: its `lines` when opened, its `size` in bytes, and the
    `last_state` of the run.

    When several processes follow one run into the same record, the first of them writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Mirror:
        self._file = self._path.open("r+b", buffering=0)
        self._writes = files.try_lock(self._file)
        content = self._file.read()
        self.size = content.rfind(b"\n") + 1
        self.lines = content[: self.size].splitlines()
        self.last_state: str | None = None
        for line in self.lines:
            self._note_state(line)
        if self._writes:
            self._file.truncate(self.size)  # drops a line that a kill cut short
            self._file.seek(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: bytes) -> None:
        """Append an event, without its line break."""
        if self._writes:
            self._file.write(line + b"\n")
        self.size += len(line) + 1
        self._note_state(line)

    def _note_state(self, line: bytes) -> None:
        event = parse_event(line)
        if event and event["event"] == "run":
            self.last_state = event["state"]


def unpack(packed: bytes, folder: Path) -> None:
    """Extract a tar aside, then copy file by file: an interrupted transfer leaves no part of a file."""
    with incoming(folder.parent) as temporary:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(temporary, filter="data")
        shutil.copytree(temporary, folder, dirs_exist_ok=True, copy_function=_copy_atomic)


def _copy_atomic(source: str, path: str) -> None:
    files.copy_atomic(Path(source), Path(path))


def note(text: str, level: str = "warning") -> bytes:
    """A message as an event for whoever follows; it does not become part of the record."""
    return json.dumps({"event": "log", "level": level, "message": text}).encode()


def reached_at(local_port: int) -> str:
    """Tells that a server is forwarded now, which its "serving" in the record does not."""
    return f"reached from here at http://127.0.0.1:{local_port}"
