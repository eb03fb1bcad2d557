"""A target whose runs are recorded on another machine; the record on this one is a mirror of theirs."""

from __future__ import annotations

import dataclasses
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.execute import gc, survey
from runner.execute.run_folder import EVENTS, KILLED
from runner.plan import elsewhere
from runner.plan.command import Place
from runner.record.runs import Run
from runner.targets import bundle
from runner.targets.base import Target
from runner.targets.mirror import Mirror, note, unpack
from runner.targets.transport.base import CommandFailed, ConnectionLost

_SURVEY = Path(survey.__file__)
_LONGEST_WAIT = 30.0  # seconds between two attempts to connect
_HEADROOM = 1.1  # factor on the size of the carried files


class MirroredTarget(Target):
    """Follows a run through lost connections, copies its results, and checks that carried files fit."""

    def locate_on_target(self, recipe: Recipe) -> tuple[Recipe, Place]:
        place, named = self.place(recipe), elsewhere.named(recipe)
        if not named:
            return recipe, place
        preview = elsewhere.preview_of(self._settings)
        if unknown := {path: key for path, key in named.items() if path not in preview.known}:
            preview.add(self._survey(list(unknown)), unknown, self.where)
        located = elsewhere.replaced(recipe, lambda path: str(preview.path(path)))
        return located, dataclasses.replace(place, preview=preview)

    def _survey(self, paths: Sequence[str]) -> Iterator[bytes]:
        """The report of `runner.execute.survey`; stderr says what takes long."""
        said = False
        for line in self.survey(_SURVEY.read_text(encoding="utf-8"), paths):
            if not line and not said:
                print(f"runner: reading {', '.join(paths)} on {self.where}", file=sys.stderr)
                said = True
            yield line

    @abstractmethod
    def survey(self, program: str, paths: Sequence[str]) -> Iterator[bytes]:
        """The lines that the text of `runner.execute.survey` prints about paths of the target. Raises RecipeError."""

    def follow(self, run: Run) -> Iterator[bytes]:
        with Mirror(run.folder / EVENTS) as mirror:
            yield from mirror.lines
            yield from self._reconnecting(self.new_events(run, mirror))

    def server_address(self, host: str, port: int) -> tuple[str, int]:
        return "127.0.0.1", self._settings.forward or port

    def fetch(self, run: Run, adapter: bool) -> None:
        unpack(self.send(run, ["--adapter"] if adapter else []), run.folder)

    @abstractmethod
    def new_events(self, run: Run, mirror: Mirror) -> Callable[[], Iterator[bytes]]:
        """A function that adds events to the mirror and yields them until the run has ended.

        It raises ConnectionLost, and can then be called again to continue from where the mirror ends.
        """

    @abstractmethod
    def send(self, run: Run, flags: Sequence[str]) -> bytes:
        """A tar of results: the output of `send` of `runner.execute.agent`. Raises RecipeError."""

    def _reconnecting(self, lines: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        wait = 0.0
        while True:
            try:
                for line in lines():
                    wait = 0.0
                    yield line
                return
            except ConnectionLost as error:
                self.detach()
                wait = min(wait * 2 or 1.0, _LONGEST_WAIT)
                yield note(f"{self.where}: connection lost ({error}); the run continues. Retrying in {wait:.0f} s")
                time.sleep(wait)


def remember_end(run: Run, state: str) -> str:
    """Note in the record whether its machine said that the run was killed, which its events cannot say."""
    if state == "killed":
        (run.folder / KILLED).touch()
    else:
        (run.folder / KILLED).unlink(missing_ok=True)
    return state


def show_gc(lines: Iterator[bytes], show: Callable[[str], None]) -> int:
    """`show` what `gc` of `runner.execute.agent` prints; returns 1 if it found damage. Raises as `lines` does."""
    try:
        for line in filter(None, lines):
            show(line.decode(errors="replace"))
    except CommandFailed as error:
        if error.status != gc.DAMAGED:
            raise
        return 1
    return 0


def check_room(missing: Mapping[str, str], free: int, disk: str, key: str) -> None:
    """Raises RecipeError, which says to set `key`, where carried files would not fit into `free` bytes of `disk`."""
    size = bundle.size(missing)
    if size * _HEADROOM > free:
        raise RecipeError(
            f"{key}: {disk} has {free / 1e9:.1f} GB free, the files to copy have {size / 1e9:.1f} GB; "
            f"free some space, or set {key}"
        )
