"""This machine: the executor is a child process, and ends when the one who started it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runner.compose import ROOT
from runner.draft import Place
from runner.execute import end_with_parent
from runner.schema import Recipe

_LOOK_EVERY = 0.1  # seconds; a person sees no finer


def place(recipe: Recipe) -> Place:
    """Paths on this machine."""
    return Place(ROOT, Path(recipe.paths.store).expanduser().absolute(), recipe.sdk.train_python or sys.executable)


class LocalRun:
    """A plan that this machine runs.

    with LocalRun(folder) as run:
        for line in run.lines():
            ...
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> LocalRun:
        self._events = (self.folder / "events.jsonl").open("rb")
        command = [sys.executable, "-m", "runner.execute", str(self.folder / "plan.json"), "--run", str(self.folder)]
        with (self.folder / "executor.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=end_with_parent,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._events.close()

    def lines(self) -> Iterator[bytes]:
        """The event stream, line by line as it grows, until the executor ends."""
        rest, ended = b"", False
        while not ended:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_EVERY)
            ended = self._process.poll() is not None  # asked before reading, so that nothing written is missed
            *lines, rest = (rest + self._events.read()).split(b"\n")
            yield from lines

    @property
    def status(self) -> int:
        """Exit status of the executor, once `lines` has ended."""
        return self._process.returncode
