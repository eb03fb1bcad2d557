"""The remote store of a plan, which machines share: its artifacts are fetched, and new ones pushed to it.

A program of the stages' environment copies (scripts/remote_store.py). Uploads run beside the next steps, in the order
in which artifacts were made. Only a remote store that cannot be used when a run starts ends the run; a copy that fails
later is a warning: the artifact is made here, or pushed by the next run. Standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.execute import files, signals
from runner.execute.events import EventWriter
from runner.execute.process import StepFailed, run_command
from runner.execute.run_folder import parse_event
from runner.execute.store import Store

_LOG = "remote-store.log"
Step = Mapping[str, Any]


class RemoteStore:
    """What `settings` of a plan name, for the `store` of this machine; without settings, it does nothing."""

    def __init__(self, settings: Mapping[str, Any] | None, store: Store, run: Path, events: EventWriter):
        self._settings, self._store, self._run, self._events = settings, store, run, events
        self._known: set[str] = set()  # what is there: artifacts/KEY, checkpoints/KEY
        self._uploads: queue.Queue[Step] = queue.Queue()
        self._worker: threading.Thread | None = None
        self._uses: Sequence[int] = ()  # file descriptors that keep artifacts from being removed

    def requirement(self) -> list[dict[str, Any]]:
        """What has to be installed, as a step of a plan says it."""
        return [{"stage": "remote store", **self._settings}] if self._settings else []

    def check(self, steps: Sequence[Step]) -> None:
        """Ask what is there for `steps`. Raises StepFailed if the remote store cannot be used."""
        names = [name for step in steps if _is_shared(step) for name in _names(step)]
        if not self._settings or not names:
            return
        found = self._run / "remote-store.json"
        self._copy("remote store", "list", *names, "--output", str(found))
        self._known = set(json.loads(found.read_text(encoding="utf-8")))
        found.unlink()

    def fetch(self, step: Step, lock: int) -> bool:
        """Copy the step's artifact into the store, if it is there; the copy inherits the `lock`."""
        key, folder = step["key"], self._store.incoming(step["key"])
        if _artifact(step) not in self._known:
            return False
        fetched = self._try(step, "fetch", _artifact(step), str(folder), inherit=(lock,), shows_progress=True)
        if fetched:
            self._store.publish(key, folder)
            shutil.rmtree(self._store.partial(key), ignore_errors=True)
        else:
            self._known.discard(_artifact(step))
            shutil.rmtree(folder, ignore_errors=True)
        return fetched

    def fetch_checkpoints(self, step: Step, lock: int) -> None:
        """Copy the checkpoints of an unfinished step to where it resumes from, if they are there."""
        if _checkpoints(step) in self._known:
            folder = str(self._store.partial(step["key"]))
            self._try(step, "fetch", _checkpoints(step), folder, inherit=(lock,), shows_progress=True)

    @contextlib.contextmanager
    def pushing_checkpoints(self, step: Step) -> Iterator[None]:
        """While this context lasts, push each checkpoint that the step writes, up to the last if it is interrupted."""
        if not (self._settings and step["resumable"] and _is_shared(step)):
            yield
            return
        finished, ended = threading.Event(), threading.Event()
        start = self._events.path.stat().st_size
        follower = threading.Thread(target=self._follow, args=(step, start, finished, ended), daemon=True)
        follower.start()
        try:
            yield
            finished.set()
        finally:
            ended.set()
            follower.join()

    def _follow(self, step: Step, start: int, finished: threading.Event, ended: threading.Event) -> None:
        for line in files.tail(self._events.path, start, lambda: not ended.is_set()):
            event = parse_event(line) if line else None
            if event and (event["event"], event.get("stage")) == ("checkpoint", step["stage"]):
                self._push_checkpoints(step, finished)

    def _push_checkpoints(self, step: Step, finished: threading.Event) -> None:
        """Push all that the step has written; a training that has finished removes it meanwhile."""
        if finished.is_set():
            return
        try:
            self._copy(step["stage"], "push", _checkpoints(step), str(self._store.partial(step["key"])), "--replace")
            self._known.add(_checkpoints(step))
        except StepFailed as failure:
            if not finished.is_set():
                self._warn(step, failure)

    def push(self, step: Step) -> None:
        """Have a finished artifact pushed, unless it is there. Returns at once."""
        if not self._settings or not _is_shared(step) or _artifact(step) in self._known:
            return
        self._known.add(_artifact(step))
        self._uploads.put(step)
        if self._worker is None:
            # Daemon: a run that is stopped does not wait for it, and the kernel ends its program with it.
            self._worker = threading.Thread(target=self._upload_all, daemon=True)
            self._worker.start()

    def _upload_all(self) -> None:
        while True:
            step = self._uploads.get()
            try:
                self._upload(step)
            finally:
                self._uploads.task_done()

    def _upload(self, step: Step) -> None:
        key = step["key"]
        sums = str(self._store.sums_file(key))
        pushed = self._try(step, "push", _artifact(step), str(self._store.path(key)), "--sums", sums)
        if pushed and _checkpoints(step) in self._known:
            self._try(step, "remove", _checkpoints(step))

    @contextlib.contextmanager
    def pushing(self, uses: Sequence[int]) -> Iterator[None]:
        """Have everything pushed at the end of this context, unless the run is stopped; programs inherit `uses`."""
        self._uses = uses
        try:
            yield
        except (StepFailed, signals.Interrupted):
            self._finish()
            raise
        self._finish()

    def _finish(self) -> None:
        waiting = self._uploads.unfinished_tasks
        if waiting:
            self._log("remote store", "info", f"copying {waiting} artifacts to {self._url}")
        self._uploads.join()

    def _try(self, step: Step, *arguments: str, inherit: Sequence[int] = (), shows_progress: bool = False) -> bool:
        try:
            self._copy(step["stage"], *arguments, inherit=inherit, shows_progress=shows_progress)
        except StepFailed as failure:
            self._warn(step, failure)
            return False
        return True

    def _copy(self, stage: str, *arguments: str, inherit: Sequence[int] = (), shows_progress: bool = False) -> None:
        """Run the program that copies. An upload runs beside a step, and must not show its progress as the step's."""
        step = {"stage": stage, "argv": [*self._program, *arguments], "env": {}}
        events = self._events.path if shows_progress else Path(os.devnull)
        run_command(step, self._run / "logs" / _LOG, events, {}, (*inherit, *self._uses))

    def _warn(self, step: Step, failure: StepFailed) -> None:
        self._log(step["stage"], "warning", f"remote store: {failure.reason}")

    def _log(self, stage: str, level: str, message: str) -> None:
        self._events.emit("log", stage=stage, level=level, message=message)

    @property
    def _program(self) -> Sequence[str]:
        return self._settings["argv"] if self._settings else []

    @property
    def _url(self) -> str:
        return self._program[-1]


def _is_shared(step: Step) -> bool:
    return step["cached"] and step.get("pushed", True)


def _names(step: Step) -> list[str]:
    return [_artifact(step), *([_checkpoints(step)] if step["resumable"] else [])]


def _artifact(step: Step) -> str:
    return f"artifacts/{step['key']}"


def _checkpoints(step: Step) -> str:
    return f"checkpoints/{step['key']}"
