"""How the nodes of one step find each other: through a file in the run folder, on a file system that all see.

Standard library alone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from runner.execute import files

NODE_NAME = "RUNNER_NODE_NAME"  # environment variable: how other nodes reach this one, if not by its host name
_POLL = 0.5  # seconds between looks of another node for its next step


class Rendezvous:
    """The first node announces each step and its own host name; the others read it.

    `attempt` tells this execution from the one before the job was requeued, whose file may still be there.
    """

    def __init__(self, file: Path, attempt: str):
        self._file, self._attempt = file, attempt

    def announce(self, stage: str) -> dict[str, str]:
        """Have the other nodes start a step; returns the environment that makes this one its first node."""
        host = os.environ.get(NODE_NAME) or socket.gethostname()
        self._write(stage=stage, host=host)
        return node_environment(0, host)

    def close(self) -> None:
        """Tell the other nodes that no step is left."""
        self._write(stage="")

    def announced(self) -> Iterator[tuple[str, str]]:
        """On another node: each stage that it has to start, with the first node's host."""
        previous = ""
        while True:
            announcement = self._read()
            if announcement.get("attempt") == self._attempt and announcement["stage"] != previous:
                previous = announcement["stage"]
                if not previous:
                    return
                yield previous, announcement["host"]
            time.sleep(_POLL)

    def _write(self, **content: str) -> None:
        files.write_atomic(self._file, json.dumps({**content, "attempt": self._attempt}))

    def _read(self) -> dict[str, str]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}


def node_environment(rank: int, first_host: str) -> dict[str, str]:
    """The variables from which torchrun takes a node's rank and the address of the first one."""
    return {"PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": first_host}
