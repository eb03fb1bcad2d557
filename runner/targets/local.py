"""This machine: the executor is a child process that ends with the runner, unless it is detached."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.compose.schema import Recipe
from runner.compose.schema import Target as Settings
from runner.execute import agent
from runner.paths import ROOT
from runner.plan.command import Place
from runner.plan.model import HERE
from runner.record.runs import Run
from runner.targets.base import Target
from runner.targets.log import Log


class LocalTarget(Target):
    """Runs on this machine. The executor writes into the record itself, so nothing is fetched."""

    survives = False
    local_store = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._lifeline: int | None = None
        self._executor: subprocess.Popen | None = None

    @property
    def where(self) -> str:
        return HERE

    def place(self, recipe: Recipe) -> Place:
        store = Path(recipe.paths.store).expanduser().absolute()
        return Place(ROOT, store, recipe.sdk.train_python or sys.executable, digest_cache=store / "digests")

    def port_problem(self, host: str, port: int) -> str | None:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                return error.strerror
        return None

    def probe(self, program: Path, flags: Sequence[str]) -> bytes:
        return subprocess.run([sys.executable, program, *flags], stdout=subprocess.PIPE, check=True).stdout

    def start(self, run: Run, attached: bool) -> None:
        if not attached:
            agent.start(run.folder, ROOT)
            return
        reader, self._lifeline = os.pipe()
        self._executor = agent.start(run.folder, ROOT, reader)
        os.close(reader)

    def start_all(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.start(run, attached=False)

    def follow(self, run: Run) -> Iterator[bytes]:
        yield from (line for line in agent.follow(run.folder) if line)
        if self._executor:
            self._executor.wait()

    def log(self, run: Run, stage: str | None, live: bool) -> Iterator[bytes]:
        log = Log(stage, live)
        return log.new_lines(agent.follow_log(run.folder, stage, live, log.onward))

    def detach(self) -> None:
        if self._lifeline is not None:
            os.write(self._lifeline, b"detach")

    def state(self, run: Run) -> str:
        return agent.state(run.folder)

    def cancel(self, run: Run) -> str:
        return agent.cancel(run.folder)

    def fetch(self, run: Run, adapter: bool) -> None:
        pass
