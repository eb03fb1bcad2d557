"""A machine that runs belong to: they continue when the connection is lost or nobody follows them.

A `runner.targets.transport.base.Transport` reaches it; the machine itself or a scheduler starts the executor.

On it, below `target.folder`: code/ and inputs/ by digest, runs/ with one folder for each run, store/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import yaml

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.errors import RecipeError
from runner.execute import bootstrap, files
from runner.execute.run_folder import EVENTS, parse_event
from runner.plan.command import Place
from runner.record.create import incoming
from runner.record.runs import Run
from runner.targets import bundle
from runner.targets.log import Log
from runner.targets.mirror import Mirror, note, reached_at, unpack
from runner.targets.mirrored import MirroredTarget, check_room, remember_end, show_gc
from runner.targets.transport.base import CommandFailed, ConnectionLost, Transport
from runner.targets.transport.local import LocalTransport
from runner.targets.transport.session import Feed, Sessions

_COMMAND_NOT_FOUND = 127  # exit status


def transport_to(host: str | None) -> Transport:
    """SSH to a host; without one, commands of this machine."""
    if host is None:
        return LocalTransport()
    from runner.targets.transport.ssh import SSHTransport  # paramiko takes 0.1 s

    return SSHTransport(host)


class RemoteTarget(MirroredTarget):
    """What the targets that use a transport have in common."""

    on_node: Sequence[str] = ()
    """Prefix of a command that is to run where steps do, if that is not the machine of the transport."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        super().__init__(settings)
        self._transport = transport
        self._sessions = Sessions(transport, settings.python, settings.folder)
        self._key = f"target.host: {settings.host}" if settings.host else f"target={settings.kind}"
        self._has_code = False

    def place(self, recipe: Recipe) -> Place:
        runs = Path(recipe.paths.runs).expanduser().absolute()
        python = recipe.sdk.train_python or (sys.executable if self._settings.host is None else None)
        if not python:
            raise RecipeError(
                f"sdk.train_python: missing: the Python on {self._transport.host} that has torch and transformers; "
                "for example sdk.train_python=/opt/venv/bin/python"
            )
        code, store, inputs = Path(bundle.code_name()), Path(recipe.paths.store), Path("inputs")
        return Place(code, store, python, inputs, digest_cache=runs / ".digests")

    def probe(self, program: Path, flags: Sequence[str]) -> bytes:
        self._look([])
        python = [*self.on_node, self._settings.python, "-c", program.read_text(encoding="utf-8")]
        return self._call(["run", *python, *flags])

    def survey(self, program: str, paths: Sequence[str]) -> Iterator[bytes]:
        self._look([])
        with self._errors_explained():
            yield from self._sessions.lines(
                ["run", self._settings.python, "-c", program, self._settings.folder, *paths]
            )

    def start(self, run: Run, attached: bool) -> None:
        self.start_all([run])

    def start_all(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._deliver(run, run.plan["carried"])
        self._agent("submit" if runs[0].plan["job"] else "start", *map(_remote_folder, runs))

    def new_events(self, run: Run, mirror: Mirror) -> Callable[[], Iterator[bytes]]:
        def events() -> Iterator[bytes]:
            for line in self._stream(run, mirror.size):
                if line:
                    if not line.startswith(b" "):  # a note, which is not part of the stream
                        mirror.add(line)
                    yield line

        return events

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        log = Log(stage, live)
        request = self._agent_request("log", _remote_folder(run), *log.flags)
        try:
            yield from log.new_lines(self._sessions.lines(request))
        except ConnectionLost as error:
            raise RecipeError(f"{self._key}: {error}; the run continues; `runner logs {run.name}` resumes") from error

    def detach(self) -> None:
        self._sessions.close()

    def state(self, run: Run) -> str:
        """The state; the mirror gets the events so far."""
        with Mirror(run.folder / EVENTS) as mirror:
            state, *events = self._agent("state", _remote_folder(run), "--offset", str(mirror.size)).splitlines()
            for event in events:
                mirror.add(event)
        return remember_end(run, state.decode())

    def cancel(self, run: Run) -> str:
        return self._agent("cancel", _remote_folder(run)).decode().strip()

    def send(self, run: Run, flags: Sequence[str]) -> bytes:
        return self._agent("send", _remote_folder(run), *flags)

    def run_names(self) -> list[str]:
        """Names of all runs on the machine, oldest first. Raises RecipeError."""
        return self._agent("list", "runs").decode().split()

    def overview(self) -> list[dict[str, Any]]:
        """The name, state, current stage and seconds of all runs on the machine, oldest first. Raises RecipeError."""
        return [json.loads(line) for line in self._agent("overview", "runs").splitlines() if line]

    def gc(self, flags: Sequence[str], show: Callable[[str], None]) -> int:
        request = self._agent_request("gc", *flags)
        with self._errors_explained():
            return show_gc(self._sessions.lines(request), show)

    def copy_record(self, name: str, runs: Path) -> Path:
        """Copy the record of a run that was started from another computer into the folder `runs`; returns its folder.

        Raises RecipeError.
        """
        with incoming(runs.absolute()) as made:
            unpack(self._agent("send", f"runs/{name}", "--record"), made)
            (made / EVENTS).touch()
            self._set_target(made)
            with suppress(FileExistsError):  # another command has copied it meanwhile
                files.move_new(made, [runs / name])
        return runs / name

    def _set_target(self, folder: Path) -> None:
        """Have a copied record name this target: the computer that started the run may reach it by other names."""
        recipe_file, plan_file = folder / "recipe.yaml", folder / "plan.json"
        recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
        recipe["target"].update(host=self._settings.host, folder=self._settings.folder)
        recipe_file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        plan = json.loads(plan_file.read_text(encoding="utf-8"))
        plan.pop("where", None)  # the recipe says it
        plan_file.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")

    def _stream(self, run: Run, offset: int) -> Iterator[bytes]:
        """The events from a byte on. A server that keeps running is meanwhile reached at a port of this machine."""
        request = self._agent_request("follow", _remote_folder(run), "--offset", str(offset))
        with ExitStack() as forwarded:
            for event in [*run.events("serving")][-1:]:
                yield from self._forward(run, event, forwarded)
            for line in self._sessions.lines(request):
                yield line
                event = parse_event(line) if b'"serving"' in line else None
                if event and event["event"] == "serving":
                    yield from self._forward(run, event, forwarded)

    def _forward(self, run: Run, serving: Mapping[str, Any], forwarded: ExitStack) -> Iterator[bytes]:
        """Forward a port of this machine to a server, in place of where it was before; yields a note that says so."""
        forwarded.close()
        if run.recipe["serve"]["mode"] == "foreground":
            url = urlsplit(serving["url"])
            assert url.hostname and url.port
            host, local_port = self._host_of_server(url.hostname), self._settings.forward or url.port
            forwarded.enter_context(self._transport.forwarding(local_port, url.port, host))
            if self._settings.host:
                yield b" " + note(reached_at(local_port), "info")

    def _host_of_server(self, named: str) -> str:
        """The host of a server, which calls itself so, as the machine of the transport reaches it."""
        return "127.0.0.1"

    def _deliver(self, run: Run | None, carried: Mapping[str, str]) -> None:
        """Copy what the machine lacks of our code and of carried files, and the record of a new run."""
        code = bundle.code_name()
        machine = self._look([code, *map(bundle.entry, carried)])
        present = machine["there"]
        missing = {remote: local for remote, local in carried.items() if bundle.entry(remote) not in present}
        check_room(missing, machine["free"], f"{self._settings.folder} on {self._transport.host}", "target.folder")

        def write(stream: IO[bytes]) -> None:
            with bundle.archive(stream) as archive:
                if code not in present:
                    bundle.write_code(archive)
                bundle.write_carried(archive, missing)
                if run:
                    bundle.write_run(archive, run, _remote_folder(run))

        if run or code not in present:
            self._call(["receive"], write)
        self._has_code = True

    def _look(self, names: Sequence[str]) -> dict[str, Any]:
        machine = json.loads(self._call(["look", *names]))
        if tuple(machine["python"]) < bootstrap.MINIMUM:
            raise self._too_old(f"Python {'.'.join(map(str, machine['python']))}")
        if machine["is_file"]:
            raise RecipeError(
                f"target.folder: {self._settings.folder} on {self._transport.host} is a file; name a folder"
            )
        return machine

    def _too_old(self, version: str) -> RecipeError:
        python, minimum = self._settings.python, ".".join(map(str, bootstrap.MINIMUM))
        return RecipeError(
            f"target.python: {python} on {self._transport.host} is {version}; name one of {minimum} or newer"
        )

    def _agent_request(self, *args: str) -> list[str]:
        """A request to our own `runner.execute.agent`: another version may have started the run."""
        if not self._has_code:
            self._deliver(None, {})
        return ["agent", bundle.code_name(), *args]

    def _agent(self, *args: str) -> bytes:
        return self._call(self._agent_request(*args))

    def _call(self, request: Sequence[str], feed: Feed | None = None) -> bytes:
        """The answer to a request. Raises RecipeError for whatever went wrong."""
        with self._errors_explained():
            return self._sessions.call(request, feed)

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Convert errors of the transport, and of the files that are copied, to RecipeError."""
        host = self._transport.host
        try:
            yield
        except CommandFailed as error:
            if error.status == _COMMAND_NOT_FOUND:
                raise RecipeError(
                    f"target.python: {host} has no {self._settings.python}; install Python 3, or name another"
                ) from error
            if "Try `python -h'" in str(error):  # it does not know the options that ours start with
                raise self._too_old("Python 2") from error
            raise RecipeError(f"{self._key}: {error}") from error
        except ConnectionLost as error:
            raise RecipeError(f"{self._key}: cannot be reached: {error}; does `ssh {host}` work?") from error
        except OSError as error:
            raise RecipeError(f"{error.filename}: cannot be copied to {host}: {error.strerror}") from error


def _remote_folder(run: Run) -> str:
    """The folder of a run on the machine; trials, which every sweep numbers from 0, get unique names."""
    if not run.sweep:
        return f"runs/{run.name}"
    started = "".join(filter(str.isdigit, run.manifest["started"]))[:14]
    return f"runs/{started}-{run.name.replace('/', '-')}"
