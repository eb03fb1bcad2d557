"""A machine that runs belong to: they go on when the connection is lost or nobody follows them.

A `runner.targets.transport.base.Wire` leads to it; the executor is started by the machine itself or by a scheduler.

There, below `target.folder`: code/ and inputs/ by digest, runs/ with one folder a run, store/.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import yaml

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.errors import RecipeError
from runner.execute import bootstrap
from runner.execute.run_folder import EVENTS
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.record.runs import Run
from runner.targets import bundle
from runner.targets.mirror import Mirror, note, unpack
from runner.targets.transport.base import CommandFailed, LinkLost, Wire
from runner.targets.transport.local import Shell

_LANDING = Path(bootstrap.__file__)
_LONGEST_WAIT = 30.0  # seconds between two tries to connect
_HEADROOM = 1.1  # of the disk that carried files take


def wire_to(host: str | None) -> Wire:
    """The way to a host by SSH; without one this machine."""
    if host is None:
        return Shell()
    from runner.targets.transport.ssh import Link  # paramiko takes 0.1 s

    return Link(host)


class Far:
    """What the targets have in common that run a plan elsewhere; each brings its wire."""

    survives = True
    on_node: Sequence[str] = ()  # words before a command that is to run where steps do, if that is another machine

    def __init__(self, settings: Settings, wire: Wire) -> None:
        self._settings, self._wire = settings, wire
        self._where = f"target.host: {settings.host}" if settings.host else f"target={settings.kind}"
        self._code_is_there = False

    def place(self, recipe: Recipe) -> Place:
        runs = Path(recipe.paths.runs).expanduser().absolute()
        python = recipe.sdk.train_python or (sys.executable if self._settings.host is None else None)
        if not python:
            raise RecipeError(
                f"sdk.train_python: says which Python on {self._wire.host} has torch and transformers; "
                "for example sdk.train_python=/opt/venv/bin/python"
            )
        code, store, inputs = Path(bundle.code_name()), Path(recipe.paths.store), Path("inputs")
        return Place(code, store, python, inputs, digest_cache=runs / ".digests")

    def ask(self, program: Path, flags: Sequence[str]) -> bytes:
        words = [*self.on_node, self._settings.python, "-c", program.read_text(encoding="utf-8"), *flags]
        there = 'cd "$1" 2>/dev/null; shift && exec "$@"'  # the folder need not be there yet
        return self._ask(lambda: self._wire.call(["sh", "-c", there, "sh", self._settings.folder, *words]))

    def manifests(self, plan: Plan) -> str:
        return ""

    def start(self, run: Run, attached: bool) -> None:
        self.start_all([run])

    def start_all(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._deliver(run, run.plan["carried"])
        self._host("submit" if runs[0].plan["job"] else "start", *map(_there, runs))

    def follow(self, run: Run) -> Iterator[bytes]:
        with Mirror(run.folder / EVENTS) as mirror:
            yield from mirror.heard
            wait = 0.0
            while True:
                try:
                    for line in self._stream(run, mirror.size):
                        wait = 0.0
                        if line:
                            if not line.startswith(b" "):
                                mirror.add(line)
                            yield line
                    return
                except LinkLost as lost:
                    wait = min(wait * 2 or 1.0, _LONGEST_WAIT)
                    lost_to = f"no link to {self._wire.host} ({lost})"
                    yield note(f"{lost_to}; the run goes on there. Trying again in {wait:.0f} s")
                    time.sleep(wait)

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        words = ["log", _there(run), *(["--stage", stage] if stage else []), *(["--live"] if live else [])]
        try:
            yield from (line[1:] for line in self._wire.lines(self._command(words)) if line)
        except LinkLost as error:
            raise RecipeError(f"{self._where}: {error}; the run goes on there") from error

    def detach(self) -> None:
        self._wire.close()

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
        self._say_where(made / "recipe.yaml")
        return made

    def _say_where(self, file: Path) -> None:
        """The record says how its machine is reached from where the run was started; here it is by this target."""
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        recipe["target"].update(host=self._settings.host, folder=self._settings.folder)
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")

    def names(self) -> list[str]:
        """Of all runs there, oldest first."""
        return self._host("list", "runs").decode().split()

    def _stream(self, run: Run, offset: int) -> Iterator[bytes]:
        command = self._command(["follow", _there(run), "--offset", str(offset)])
        with self._forwarding(run):
            yield from self._wire.lines(command)

    def _forwarding(self, run: Run) -> AbstractContextManager[None]:
        """A server that stays is reached at a port of this machine as well."""
        words = next((step["argv"] for step in run.plan["steps"] if step["stage"] == "serve"), [])
        if run.plan.get("job") or run.recipe["serve"]["mode"] != "foreground" or "--port" not in words:
            return nullcontext()
        port = int(words[words.index("--port") + 1])
        return self._wire.forwarding(self._settings.forward or port, port)

    def _deliver(self, run: Run | None, carried: dict[str, str]) -> None:
        """Bring our code, files and the record of a new run there, as far as they are not."""
        found = self._look([bundle.code_name(), *map(bundle.entry, carried)])
        missing = {there: here for there, here in carried.items() if bundle.entry(there) not in found["there"]}
        self._check_room(missing, found["free"])

        def write(stream: IO[bytes]) -> None:
            with bundle.archive(stream) as archive:
                if bundle.code_name() not in found["there"]:
                    bundle.write_code(archive)
                bundle.write_carried(archive, missing)
                if run:
                    bundle.write_run(archive, run, _there(run))

        if run or bundle.code_name() not in found["there"]:
            self._ask(lambda: self._wire.call(self._land("receive"), write))
        self._code_is_there = True

    def _look(self, names: Sequence[str]) -> dict[str, Any]:
        found = json.loads(self._ask(lambda: self._wire.call(self._land("look", *names))))
        if tuple(found["python"]) < bootstrap.MINIMUM:
            version, least = (".".join(map(str, numbers)) for numbers in (found["python"], bootstrap.MINIMUM))
            raise RecipeError(f"target.python: {self._settings.python} on {self._wire.host} is {version}; "
                              f"name one of {least} or newer")  # fmt: skip
        return found

    def _check_room(self, missing: dict[str, str], free: int) -> None:
        size = bundle.size(missing)
        if size * _HEADROOM > free:
            raise RecipeError(
                f"{self._where}: {free / 1e9:.1f} GB are free in {self._settings.folder}, "
                f"{size / 1e9:.1f} GB would be carried there; free some, or set target.folder"
            )

    def _land(self, verb: str, *names: str) -> list[str]:
        return [self._settings.python, "-c", _LANDING.read_text(encoding="utf-8"), verb, self._settings.folder, *names]

    def _command(self, words: Sequence[str]) -> list[str]:
        """A verb of our `runner.execute.agent`, in the folder that plans run in: the run may be of another checkout."""
        if not self._code_is_there:
            self._deliver(None, {})
        start = (
            'cd "$1" && shift && export PYTHONUTF8=1 PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}" && shift && exec "$@"'
        )
        python = [self._settings.python, "-m", "runner.execute.agent"]
        return ["sh", "-c", start, "sh", self._settings.folder, bundle.code_name(), *python, *words]

    def _host(self, *words: str) -> bytes:
        return self._ask(lambda: self._wire.call(self._command(words)))

    def _ask(self, call: Any) -> bytes:
        """A call, with what can go wrong in words. Raises RecipeError."""
        host = self._wire.host
        try:
            return call()
        except CommandFailed as error:
            if error.status == 127:
                raise RecipeError(
                    f"target.python: {host} has no {self._settings.python}; install Python 3, or name one"
                ) from error
            raise RecipeError(f"{self._where}: {error}") from error
        except LinkLost as error:
            raise RecipeError(f"{self._where}: cannot be reached: {error}; does `ssh {host}` work?") from error


def _there(run: Run) -> str:
    """The folder of a run there; the trials of a sweep, numbered from 0 in each, get names of their own."""
    if not run.sweep:
        return f"runs/{run.name}"
    started = "".join(filter(str.isdigit, run.manifest["started"]))[:14]
    return f"runs/{started}-{run.name.replace('/', '-')}"
