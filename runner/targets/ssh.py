"""Another machine, over SSH. The run belongs to that machine; a lost link, or nobody who follows, does not hurt it.

There, below `target.folder`: code/ and inputs/ by digest, runs/ with one folder a run, store/.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from runner import delivery, landing
from runner.draft import Place
from runner.errors import RecipeError
from runner.host import EVENTS
from runner.link import CommandFailed, Link, LinkLost
from runner.mirror import Mirror, note, unpack
from runner.plan import Plan
from runner.runs import Run
from runner.schema import Recipe
from runner.schema import Target as Settings

_LANDING = Path(landing.__file__)
_LONGEST_WAIT = 30.0  # seconds between two tries to connect
_HEADROOM = 1.1  # of the disk that carried files take


class Target:
    """Runs on the machine that `target.host` names."""

    survives = True

    def __init__(self, settings: Settings) -> None:
        if not settings.host:
            raise RecipeError("target.host: says which machine; for example target.host=trn2-a of your ~/.ssh/config")
        self._settings = settings
        self._link = Link(settings.host)
        self._code_is_there = False

    def place(self, recipe: Recipe) -> Place:
        python, runs = recipe.sdk.train_python, Path(recipe.paths.runs).expanduser().absolute()
        if not python:
            raise RecipeError(
                f"sdk.train_python: says which Python on {self._settings.host} has torch and transformers; "
                "for example sdk.train_python=/opt/venv/bin/python"
            )
        code, store, inputs = Path(delivery.code_name()), Path(recipe.paths.store), Path("inputs")
        return Place(code, store, python, inputs, memory=runs / ".digests")

    def ask(self, program: Path, flags: Sequence[str]) -> bytes:
        words = [self._settings.python, "-c", program.read_text(), *flags]
        there = 'cd "$1" 2>/dev/null; shift && exec "$@"'  # the folder need not be there yet
        return self._ask(lambda: self._link.call(["sh", "-c", there, "sh", self._settings.folder, *words]))

    def manifests(self, plan: Plan) -> str:
        return ""

    def start(self, run: Run, attached: bool) -> None:
        self._deliver(run, run.plan["carried"])
        self._host("start", _there(run))

    def follow(self, run: Run) -> Iterator[bytes]:
        with Mirror(run.folder / EVENTS) as mirror:
            yield from mirror.heard
            wait = 0.0
            while True:
                try:
                    for line in self._stream(run, mirror.size):
                        wait = 0.0
                        if line:
                            mirror.add(line)
                            yield line
                    return
                except LinkLost as lost:
                    wait = min(wait * 2 or 1.0, _LONGEST_WAIT)
                    lost_to = f"no link to {self._settings.host} ({lost})"
                    yield note(f"{lost_to}; the run goes on there. Trying again in {wait:.0f} s")
                    time.sleep(wait)

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        words = ["log", _there(run), *(["--stage", stage] if stage else []), *(["--live"] if live else [])]
        try:
            yield from (line[1:] for line in self._link.lines(self._command(words)) if line)
        except LinkLost as error:
            raise RecipeError(f"target.host: {self._settings.host}: {error}; the run goes on there") from error

    def detach(self) -> None:
        self._link.close()

    def state(self, run: Run) -> str:
        return self._host("state", _there(run)).decode().strip()

    def cancel(self, run: Run) -> str:
        return self._host("cancel", _there(run)).decode().strip()

    def fetch(self, run: Run, adapter: bool) -> None:
        words = ["send", _there(run), *(["--adapter"] if adapter else [])]
        unpack(self._host(*words), run.folder)

    def record(self, name: str, folder: Path) -> Path:
        """Bring the record of a run that was started elsewhere into `folder`."""
        made = folder / name
        made.mkdir(parents=True, exist_ok=True)
        unpack(self._host("send", f"runs/{name}", "--record"), made)
        (made / EVENTS).touch()
        return made

    def names(self) -> list[str]:
        """Of all runs there, oldest first."""
        return self._host("list", "runs").decode().split()

    def _stream(self, run: Run, offset: int) -> Iterator[bytes]:
        command = self._command(["follow", _there(run), "--offset", str(offset)])
        with self._forwarding(run):
            yield from self._link.lines(command)

    def _forwarding(self, run: Run) -> AbstractContextManager[None]:
        """A server that stays is reached at a port of this machine as well."""
        words = next((step["argv"] for step in run.plan["steps"] if step["stage"] == "serve"), [])
        if run.recipe["serve"]["mode"] != "foreground" or "--port" not in words:
            return nullcontext()
        port = int(words[words.index("--port") + 1])
        return self._link.forwarding(self._settings.forward or port, port)

    def _deliver(self, run: Run | None, carried: dict[str, str]) -> None:
        """Bring our code, files and the record of a new run there, as far as they are not."""
        found = self._look([delivery.code_name(), *map(delivery.entry, carried)])
        missing = {there: here for there, here in carried.items() if delivery.entry(there) not in found["there"]}
        _check_room(missing, found["free"], self._settings)

        def write(stream: IO[bytes]) -> None:
            with delivery.archive(stream) as archive:
                if delivery.code_name() not in found["there"]:
                    delivery.write_code(archive)
                delivery.write_carried(archive, missing)
                if run:
                    delivery.write_run(archive, run, _there(run))

        if run or delivery.code_name() not in found["there"]:
            self._ask(lambda: self._link.call(self._land("receive"), write))
        self._code_is_there = True

    def _look(self, names: Sequence[str]) -> dict[str, Any]:
        found = json.loads(self._ask(lambda: self._link.call(self._land("look", *names))))
        if tuple(found["python"]) < landing.MINIMUM:
            version, least = (".".join(map(str, numbers)) for numbers in (found["python"], landing.MINIMUM))
            raise RecipeError(f"target.python: {self._settings.python} on {self._settings.host} is {version}; "
                              f"name one of {least} or newer")  # fmt: skip
        return found

    def _land(self, verb: str, *names: str) -> list[str]:
        return [self._settings.python, "-c", _LANDING.read_text(), verb, self._settings.folder, *names]

    def _command(self, words: Sequence[str]) -> list[str]:
        """A verb of `runner.host`, in the folder that plans run in, of our code: the run may be of another checkout."""
        if not self._code_is_there:
            self._deliver(None, {})
        start = 'cd "$1" && shift && export PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}" && shift && exec "$@"'
        python = [self._settings.python, "-m", "runner.host"]
        return ["sh", "-c", start, "sh", self._settings.folder, delivery.code_name(), *python, *words]

    def _host(self, *words: str) -> bytes:
        return self._ask(lambda: self._link.call(self._command(words)))

    def _ask(self, call: Any) -> bytes:
        """A call, with what can go wrong in words. Raises RecipeError."""
        host = self._settings.host
        try:
            return call()
        except CommandFailed as error:
            if error.status == 127:
                raise RecipeError(
                    f"target.python: {host} has no {self._settings.python}; install Python 3, or name one"
                ) from error
            raise RecipeError(f"target.host: {host}: {error}") from error
        except LinkLost as error:
            raise RecipeError(f"target.host: {host}: cannot be reached: {error}; does `ssh {host}` work?") from error


def _there(run: Run) -> str:
    """The folder of a run there; the trials of a sweep, numbered from 0 in each, get names of their own."""
    if run.folder.parent.parent.name != "sweeps":
        return f"runs/{run.name}"
    started = "".join(filter(str.isdigit, run.manifest["started"]))[:14]
    return f"runs/{started}-{run.folder.parent.name}-{run.name}"


def _check_room(missing: dict[str, str], free: int, settings: Settings) -> None:
    size = delivery.size(missing)
    if size * _HEADROOM > free:
        raise RecipeError(f"target.host: {settings.host}: {free / 1e9:.1f} GB are free in {settings.folder}, "
                          f"{size / 1e9:.1f} GB would be carried there; free some, or set target.folder")  # fmt: skip
