"""One trial: a command is disturbed once, then everything must be as if it had not been."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner import cli
from tests.torture.faults import Fault, Shim

_LONGEST = 120.0  # seconds for a command
_ORPHANED = 60.0  # seconds after which what a command has started must have ended; the executor gives a step 45
_VERBS = (("runs",), ("status",), ("show", "last"))


@dataclass(frozen=True)
class Scenario:
    """A `command` in a folder that is like `template`; the calls of processes of a `role` are disturbed.

    `result` says what it has made. Started again, the command may also end with one of the statuses `done`, as it does
    where it refuses to replace what it has made already. The `place` in the folder has its store.
    """

    name: str
    role: str
    template: Path
    command: Callable[[], int]
    result: Callable[[Path], Mapping[str, str]]
    done: Sequence[int] = (0,)
    has_records: bool = True
    place: str = "."


class Lost(Exception):
    """A trial did not end as it must; the text says how."""


class Trials:
    """Runs trials, one at a time, in `folder`."""

    def __init__(self, shim: Shim, folder: Path) -> None:
        self.shim, self.folder = shim, folder

    def undisturbed(self, scenario: Scenario) -> tuple[int, Mapping[str, str]]:
        """How many calls the command makes, and its result."""
        self.prepare(scenario)
        status, output = self._disturbed(scenario, Fault.none, 0)
        if status:
            raise Lost(f"undisturbed, it ended with status {status}: {output}")
        count = self.shim.count
        self.shim.disarm()
        return count, scenario.result(self.folder)

    def trial(self, scenario: Scenario, fault: Fault, at: int, expected: Mapping[str, str]) -> bool:
        """Disturb call `at`; returns whether it was reached. Raises Lost."""
        self.prepare(scenario)
        _, output = self._disturbed(scenario, fault, at)
        reached = self.shim.fired
        self.shim.disarm()
        try:
            self._must_be_in_words(output)
            self.must_end()
            self.must_be_whole(scenario, expected)
        except Lost as lost:
            raise Lost(f"{fault.name} at call {at}, {reached or 'not reached'}: {lost}") from None
        return bool(reached)

    def prepare(self, scenario: Scenario) -> None:
        self.shim.disarm()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(scenario.template, self.folder, symlinks=True)

    def _disturbed(self, scenario: Scenario, fault: Fault, at: int) -> tuple[int, str]:
        self.shim.arm(fault, at, scenario.role, self.folder)
        return self.finished(self.start(scenario.command, "command"), "command")

    def must_be_whole(self, scenario: Scenario, expected: Mapping[str, str]) -> None:
        """After a disturbance: no verb fails, the same command has the same result, and nothing is left over."""
        if scenario.has_records:
            self._verbs_must_work()
        status, output = self.ended(scenario.command)
        if status not in scenario.done:
            raise Lost(f"the same command ended with status {status}: {output}")
        self.must_end()
        if scenario.result(self.folder) != expected:
            raise Lost(f"the same command has another result: {_differences(expected, scenario.result(self.folder))}")
        self._nothing_may_be_left(self.folder / scenario.place)

    def _verbs_must_work(self) -> None:
        for verb in _VERBS:
            status, output = self.ended(lambda verb=verb: cli.main(verb))
            if status and "no such run" not in output or "damaged" in output:
                raise Lost(f"runner {' '.join(verb)} ended with status {status}: {output}")

    def _nothing_may_be_left(self, place: Path) -> None:
        store = place / "store"
        if store.is_dir():
            for flag in ("--unreachable", "--verify"):
                words = ("gc", flag, "--store", str(store), "--in", str(place / "runs"))
                status, output = self.ended(lambda words=words: cli.main(words))
                if status or "Traceback" in output:
                    raise Lost(f"runner {' '.join(words)} ended with status {status}: {output}")
        names = (
            "store/partial/*",
            "store/damaged/*",
            "store/uses/*",
            "store/doomed",
            "store/**/.*.partial",
            ".[!.]*",
            "incoming-*",
        )
        left = [str(path.relative_to(place)) for name in names for path in place.glob(name)]
        left += [path.name for path in place.glob("store/sums/*") if not (store / "objects" / path.stem).exists()]
        if left:
            raise Lost(f"left over: {' '.join(left)}")

    def must_end(self) -> None:
        """Everything that the command started has ended, or ends soon."""
        for pid in self.shim.processes():
            try:
                ended = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            soon = select.select([ended], [], [], _ORPHANED)[0]
            os.close(ended)
            if not soon:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                os.kill(pid, signal.SIGKILL)
                raise Lost(f"orphan: {command}")

    @staticmethod
    def _must_be_in_words(output: str) -> None:
        if "Traceback" in output:
            raise Lost(f"a traceback: {output.strip().splitlines()[-1]}")

    def ended(self, command: Callable[[], int]) -> tuple[int, str]:
        """Status and output of a command that is not disturbed."""
        return self.finished(self.start(command, "other"), "other")

    def start(self, command: Callable[[], int], name: str) -> int:
        """Start a command in a process that is forked from this one, which has imported the runner already."""
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            os._exit(self._as_a_command(command, name))
        return pid

    def _as_a_command(self, command: Callable[[], int], name: str) -> int:
        try:
            os.setsid()
            os.chdir(self.folder)
            output = os.open(self._output(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            for descriptor, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
                os.dup2(descriptor, stream)
            self.shim.begin("runner")
            status = command()
            sys.stdout.flush()
            return status
        except BaseException:
            traceback.print_exc()
            return 1
        finally:
            sys.stderr.flush()

    def finished(self, pid: int, name: str) -> tuple[int, str]:
        """Status, negative for a signal, and output of a command that was started."""
        ended = os.pidfd_open(pid)
        if not select.select([ended], [], [], _LONGEST)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, self._output(name).read_text(errors="replace")

    def _output(self, name: str) -> Path:
        return self.folder.with_name(f"{name}.txt")


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _differences(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    return " ".join(name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name))
