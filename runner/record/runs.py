"""Recorded runs: read from their folders, found by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from runner.compose.schema import Recipe
from runner.compose.validate import InvalidKey, build
from runner.errors import RecipeError, did_you_mean
from runner.execute import agent, run_folder
from runner.plan.model import HERE
from runner.record.old_keys import old_where, rename_old_keys

_SHOWN_MATCHES = 5  # of a name that matches too many runs


@dataclass(frozen=True)
class Run:
    """The record of one run."""

    folder: Path

    @property
    def name(self) -> str:
        """Its name everywhere; of a trial, SWEEP/NUMBER."""
        return run_folder.run_name(self.folder)

    @property
    def sweep(self) -> dict[str, Any] | None:
        """The description of its sweep, if it is a trial."""
        file = self.folder.parent / run_folder.SWEEP
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def started(self) -> float:
        """When it was created, in Unix time."""
        text = self.manifest["started"]
        fraction = ".%f" if "." in text else ""
        return datetime.strptime(text, f"%Y-%m-%dT%H:%M:%S{fraction}%z").timestamp()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The overrides, the code, the package versions and the machine."""
        return self._json("manifest.json")

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan as in plan.json."""
        return self._json("plan.json")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The composed recipe as plain values, with today's keys."""
        return rename_old_keys(yaml.safe_load((self.folder / "recipe.yaml").read_text(encoding="utf-8")))

    def typed_recipe(self) -> Recipe:
        """The composed recipe. Raises RecipeError where a record of another version has keys that are unknown here."""
        try:
            return build(Recipe, self.recipe)
        except InvalidKey as error:
            version = (self.manifest["git"] or {}).get("commit", "another version")[:12]
            advice = f"recorded by {version}: check that version out, or edit recipe.yaml"
            raise RecipeError(f"{self.folder / 'recipe.yaml'}: {error} ({advice})") from error

    def _json(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def events(self) -> Iterator[dict[str, Any]]:
        """The events in order."""
        return run_folder.read_events(self.folder)

    @property
    def in_progress(self) -> bool:
        """Whether its executor is alive on this machine."""
        return run_folder.in_progress(self.folder)

    @property
    def state(self) -> str:
        """finished, failed, stopped or running; killed, if it ended without reporting.

        Of a run elsewhere the last state that was received; `away` if that was not an end.
        """
        state = agent.state(self.folder)
        return "away" if state == "killed" and self.where != HERE else state

    @property
    def where(self) -> str:
        """What people call the machine or cluster that it was started on."""
        return self.plan.get("where") or old_where(self.recipe["target"])

    def stages(self) -> dict[str, dict[str, Any]]:
        """The last event of every stage: its state, and seconds if it has ended."""
        return {event["stage"]: event for event in self.events() if event["event"] == "step"}

    def seconds(self) -> float:
        """The time from the first event to the last."""
        times = [event["time"] for event in self.events()]
        return times[-1] - times[0] if times else 0.0

    def result(self, stage: str, name: str) -> dict[str, Any] | None:
        """The content of a JSON file that a stage wrote; None if there is none."""
        path = self.folder / "results" / stage / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def metrics(self) -> dict[str, float]:
        """All metrics of the evaluation and the training: `adapter.execution_accuracy`, `train.loss`."""
        report = self.result("evaluate", "report.json") or {}
        training = self.result("train", "training.json") or {}
        sides = {"adapter": report.get("adapter", {}), "base": report.get("base", {}), "train": training}
        return {
            f"{side}.{name}": value
            for side, values in sides.items()
            for name, value in values.items()
            if isinstance(value, int | float)
        }


def every(folder: Path) -> list[Run]:
    """The runs in a folder and the trials of the sweeps in it, in the order in which they were started."""
    manifests = [*folder.glob("*/manifest.json"), *folder.glob("sweeps/*/*/manifest.json")]
    return sorted((Run(path.parent) for path in manifests), key=lambda run: (run.started, run.folder))


def find_all(name: str, folder: Path) -> list[Run]:
    """The trials of the sweep `name`, or the runs in the folder `name`, or else the one run that `find` finds."""
    for candidate in (folder / "sweeps" / name, Path(name)):
        runs = every(candidate) if candidate.is_dir() else []
        if runs:
            return runs
    return [find(name, folder)]


def matching(name: str, runs: Sequence[Run]) -> list[Run]:
    """The runs (oldest first) that a name may mean: the `last`, the one of that name, or all whose name contains it.

    Prints to stderr which run is the last.
    """
    if name == "last" and runs:
        print(f"runner: last is {runs[-1].name}", file=sys.stderr)
        return [runs[-1]]
    return [run for run in runs if run.name == name] or [run for run in runs if name in run.name]


def find(name: str, folder: Path, having: str | None = None) -> Run:
    """The run of that folder, or in `folder` the one whose name is or contains `name`, or the `last` that was started.

    With `having`, a stage, only among runs that have it. Raises RecipeError unless exactly one run matches.
    """
    if (Path(name) / "manifest.json").is_file():
        return Run(Path(name).absolute())
    runs = [run for run in every(folder) if not having or having in {step["stage"] for step in run.plan["steps"]}]
    matches = matching(name, runs)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(run.name for run in matches[-_SHOWN_MATCHES:])
        raise RecipeError(f'"{name}" matches {len(matches)} runs: {names}; write more of the name')
    if having and any(name in run.name for run in every(folder)):
        raise RecipeError(f"{name}: this run has no stage {having}; name a run that has it")
    raise RecipeError(f"{name}: no such run in {folder}; {did_you_mean(name, [run.name for run in runs])}")
