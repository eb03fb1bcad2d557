"""Writes a run's event stream, one JSON object a line, and prints it as it grows. Standard library alone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from pathlib import Path
from typing import IO, Any

from runner.execute import files
from runner.execute.run_folder import EVENTS, in_progress

_RESERVED_BYTES = 2**16
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class EventWriter:
    """Appends events to a file.

    A file beside it reserves some disk space, so that a run can still report its end when the disk is full.
    """

    def __init__(self, path: Path):
        self.path, self._reserved = path, path.with_name("reserved-space")
        with contextlib.suppress(OSError):
            self._reserved.write_bytes(bytes(_RESERVED_BYTES))

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event; a full disk costs the reserved space first."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        try:
            self._append(line)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            self.release_space()
            self._append(line)

    def release_space(self) -> None:
        """Give the reserved disk space back."""
        self._reserved.unlink(missing_ok=True)

    def _append(self, line: str) -> None:
        """Append a line of its own, also after one that a full disk cut short. Raises OSError unless all is written."""
        with self.path.open("a+b", buffering=0) as stream:
            content = (b"" if _ends_a_line(stream) else b"\n") + line.encode() + b"\n"
            if stream.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


def _ends_a_line(stream: IO[bytes]) -> bool:
    size = stream.seek(0, os.SEEK_END)
    return not size or os.pread(stream.fileno(), 1, size - 1) == b"\n"


def echo(run: Path) -> None:
    """Print the run's events as `OFFSET EVENT`, from the first one on, until its executor ends."""
    offset = 0
    for line in files.tail(run / EVENTS, 0, lambda: in_progress(run)):
        if line:
            print(offset, line.decode(), flush=True)
            offset += len(line) + 1
