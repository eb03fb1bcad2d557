"""Trackers receive the metrics of a run besides its folder. One file each, whose package is imported when chosen.

with trackers.feed(tracker, Run(folder), warn) as feed:
    for line in feed.passing(lines):
        ...
"""

from __future__ import annotations

import importlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from runner.compose.schema import Tracker as Settings
from runner.errors import RecipeError
from runner.execute.run_folder import parse_event
from runner.record import training_curve
from runner.record.runs import Run

# What pip has to install for each.
_PACKAGES = {"mlflow": "mlflow-skinny sqlalchemy alembic", "tensorboard": "tensorboard", "wandb": "wandb"}
_WANDB_PROJECT = re.compile(r"[^/\\#?%:]{1,128}")
_LONGEST_NAME = 240


class Tracker(Protocol):
    """The interface of a tracker; its module defines it under this name.

    It is made from the URI and the project of the recipe. `failures` are the exceptions that the tracker's library
    raises when it cannot continue.
    """

    failures: tuple[type[Exception], ...]

    def __init__(self, uri: str, project: str) -> None: ...

    def start(self, run: Run) -> None:
        """Send the recipe and the manifest, before the first step."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Send the metrics of one training step; steps come in order."""
        ...

    def finish(self, run: Run, metrics: Mapping[str, float], notes: str) -> None:
        """Send the final metrics and where the results are; `run.state` is how the run ended."""
        ...


def of(settings: Settings) -> Tracker | None:
    """The tracker that a recipe chooses, None for none. Raises RecipeError where it cannot be used."""
    kind, uri = settings.kind, settings.uri
    if kind == "none":
        return None
    if not uri:
        raise RecipeError(f"tracker.uri: missing; choose the option tracker={kind}, which sets it")
    _check_uri(kind, uri)
    if kind == "wandb" and not _WANDB_PROJECT.fullmatch(settings.project):
        raise RecipeError(f"tracker.project: {settings.project}: W&B accepts 1 to 128 characters, none of / \\ # ? % :")
    try:
        return importlib.import_module(f"runner.record.trackers.{kind}").Tracker(uri, settings.project)
    except ImportError as error:
        needed = f"needs {error.name}; run: pip install {_PACKAGES[kind]}"
        raise RecipeError(f"tracker={kind}: {needed} (or choose tracker=none)") from error


def _check_uri(kind: str, uri: str) -> None:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise RecipeError(f"tracker.uri: {error}") from None
    if kind == "mlflow" and parts.scheme in ("", "file") and uri != "databricks":
        raise RecipeError(f"tracker.uri: {uri}: MLflow no longer writes to folders; use sqlite:///FILE or a server")
    if kind != "mlflow" and parts.netloc:
        raise RecipeError(f"tracker.uri: {uri}: {kind} writes to a folder; give a path")


@contextmanager
def feed(tracker: Tracker | None, run: Run, warn: Callable[[str], None]) -> Iterator[Feed]:
    """A Feed that is started here and finished at the end, however the run ends."""
    feed = Feed(tracker, run, warn)
    feed.start()
    try:
        yield feed
    finally:
        feed.finish()


class Feed:
    """Passes an event stream on to a tracker. One that fails is dropped with a warning; the run continues."""

    def __init__(self, tracker: Tracker | None, run: Run, warn: Callable[[str], None]):
        self._tracker, self._run, self._warn = tracker, run, warn
        self._sent: set[str] = set()

    def start(self) -> None:
        """Start the tracker."""
        self._try(lambda tracker: tracker.start(self._run))

    def passing(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The same lines, each after the tracker received it."""
        for line in lines:
            event = parse_event(line)
            if event:
                self._receive(event)
            yield line

    def finish(self) -> None:
        """Send the final metrics that the training steps did not have, and finish the tracker."""
        names = {name: name.replace(".", "/") for name in self._run.metrics()}
        final = {names[name]: value for name, value in training_curve.finite(self._run.metrics()).items()}
        unsent = {name: value for name, value in final.items() if name not in self._sent}
        self._try(lambda tracker: tracker.finish(self._run, unsent, _notes(self._run)))

    def _receive(self, event: dict[str, Any]) -> None:
        if self._tracker is None:
            return
        if training_curve.is_training_step(event):
            if not self._sent:
                self._catch_up(event["at"])
            self._send(event["values"], event["at"])
        elif event.get("stage") == "train" and event.get("state") == "cached":
            self._catch_up(None)

    def _catch_up(self, until: int | None) -> None:
        """Send the steps that earlier runs did: those up to a checkpoint, or all."""
        for at, values in training_curve.steps(self._run).items():
            if until is None or at < until:
                self._send(values, at)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        named = {f"train/{name}": value for name, value in training_curve.finite(dict(values)).items()}
        self._sent |= named.keys()
        self._try(lambda tracker: tracker.metrics(named, step))

    def _try(self, action: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except self._tracker.failures as error:
            reason = next(iter(str(error).splitlines()), "")
            self._warn(f"tracker dropped, the run continues: {type(error).__name__}: {reason}")
            self._tracker = None


def _notes(run: Run) -> str:
    """The paths of the run's record and of its adapter."""
    places = {"record": run.folder, **({"adapter": run.adapter.resolve()} if run.adapter.exists() else {})}
    return "\n".join(f"{name}: {path}" for name, path in places.items())


def accepted(keys: Iterable[str], refused: re.Pattern[str]) -> dict[str, str]:
    """A name for each key: characters that the tracker refuses become `_`, and no two keys get the same name.

    A name with a slash must be a plain path, since MLflow may use it as one.

    >>> accepted(["where.prompt (en)?", "where.a//b", "train/loss"], re.compile(r"[^/\\w.\\- :]"))
    {'where.prompt (en)?': 'where.prompt _en__', 'where.a//b': 'where.a__b', 'train/loss': 'train/loss'}
    """
    names: dict[str, str] = {}
    for key in keys:
        name = refused.sub("_", key)[:_LONGEST_NAME]
        if name.startswith(("/", "..")) or posixpath.normpath(name) != name:
            name = name.replace("/", "_")
        while name in names.values():
            name += "_"
        names[key] = name
    return names


def tags(run: Run) -> dict[str, str]:
    """Tags to find a run by: its recipe, its name and the commit of the code."""
    git = run.manifest["git"] or {}
    return {"recipe": run.recipe["name"], "run": run.name, "git_commit": git.get("commit", "none")}
