"""The output of stages, as `log` of `runner.execute.agent` prints it on the machine of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator


class Log:
    """The log of a stage; of a run that is followed, the logs of all stages from the current one on.

    Without a connection, it can be asked for again and continues where it was.
    """

    def __init__(self, stage: str | None, live: bool) -> None:
        self._stage, self._live = stage, live
        self.onward = live and not stage
        self._received = 0  # lines of the stage in progress

    @property
    def flags(self) -> list[str]:
        """The flags of `log` with which to ask for it."""
        stage = ["--stage", self._stage] if self._stage else []
        return [*stage, *(["--onward"] if self.onward else ["--live"] if self._live else [])]

    def new_lines(self, printed: Iterable[bytes]) -> Iterator[bytes]:
        """The lines, out of what `log` prints, that were not yielded before.

        The names of stages and the reason why one waits go to stderr.
        """
        skip = self._received
        for line in printed:
            kind, text = line[:1], line[1:]
            if kind == b">" and text.decode() != self._stage:
                self._stage, self._received, skip = text.decode(), 0, 0
                print(f"==> {self._stage} <==", file=sys.stderr, flush=True)
            elif kind == b"!":
                print(f"runner: {text.decode(errors='replace')}", file=sys.stderr, flush=True)
            elif kind == b" " and skip:
                skip -= 1
            elif kind == b" ":
                self._received += 1
                yield text
