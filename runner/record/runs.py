"""Runs that were: found by name, read from their folders."""

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

from runner.errors import RecipeError, did_you_mean
from runner.execute import agent, run_folder


@dataclass(frozen=True)
class Run:
    """The record of one run."""

    folder: Path

    @property
    def name(self) -> str:
        """What it is called everywhere; a trial by its sweep too: SWEEP/001."""
        return run_folder.run_name(self.folder)

    @property
    def sweep(self) -> dict[str, Any] | None:
        """What its sweep says of itself, if it is a trial."""
        file = self.folder.parent / run_folder.SWEEP
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def started(self) -> float:
        """Unix time."""
        text = self.manifest["started"]
        fraction = ".%f" if "." in text else ""
        return datetime.strptime(text, f"%Y-%m-%dT%H:%M:%S{fraction}%z").timestamp()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self._json("manifest.json")

    @cached_property
    def plan(self) -> dict[str, Any]:
        return self._json("plan.json")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The composed recipe as plain values."""
        return yaml.safe_load((self.folder / "recipe.yaml").read_text(encoding="utf-8"))

    def _json(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def events(self) -> Iterator[dict[str, Any]]:
        """What happened, in order."""
        return run_folder.read_events(self.folder)

    @property
    def in_progress(self) -> bool:
        """Whether its executor lives on this machine."""
        return run_folder.in_progress(self.folder)

    @property
    def state(self) -> str:
        """finished, failed or stopped; running; killed, if it ended without a word.

        Of a run elsewhere what was heard last; `away` while that was no end.
        """
        said = agent.state(self.folder)
        return "away" if said == "killed" and self.recipe["target"]["kind"] != "local" else said

    @property
    def where(self) -> str:
        """The host or the kind of cluster that it was started on."""
        kind, host = self.recipe["target"]["kind"], self.recipe["target"]["host"]
        names = {"local": "here", "ssh": host}
        return names.get(kind, f"{kind} at {host}" if host else kind)

    def stages(self) -> dict[str, dict[str, Any]]:
        """The last event of every stage: its state, and seconds where it ended."""
        return {event["stage"]: event for event in self.events() if event["event"] == "step"}

    def seconds(self) -> float:
        """From the first event to the last."""
        times = [event["time"] for event in self.events()]
        return times[-1] - times[0] if times else 0.0

    def result(self, stage: str, name: str) -> dict[str, Any] | None:
        """The figures that a stage left under `name`, if it did."""
        path = self.folder / "results" / stage / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def metrics(self) -> dict[str, float]:
        """Every figure of the evaluation and the training: `adapter.execution_accuracy`, `train.loss`."""
        report = self.result("evaluate", "report.json") or {}
        training = self.result("train", "training.json") or {}
        sides = {"adapter": report.get("adapter", {}), "base": report.get("base", {}), "train": training}
        return {
            f"{side}.{name}": value
            for side, figures in sides.items()
            for name, value in figures.items()
            if isinstance(value, int | float)
        }


def every(folder: Path) -> list[Run]:
    """The runs in a folder and the trials of the sweeps in it, in the order in which they were started."""
    found = [*folder.glob("*/manifest.json"), *folder.glob("sweeps/*/*/manifest.json")]
    return sorted((Run(path.parent) for path in found), key=lambda run: (run.started, run.folder))


def several(name: str, folder: Path) -> list[Run]:
    """The trials of the sweep of that name, the runs in the folder of that name, or one run as `find` knows it."""
    folders = [one for one in (folder / "sweeps" / name, Path(name)) if one.is_dir()]
    return next((found for one in folders if (found := every(one))), None) or [find(name, folder)]


def fitting(name: str, several: Sequence[Run]) -> list[Run]:
    """Those of `several`, oldest first, that a name may mean: the `last`, the one called so, or all that contain it.

    Says which one is the last.
    """
    if name == "last" and several:
        print(f"runner: last is {several[-1].name}", file=sys.stderr)
        return [several[-1]]
    return [run for run in several if run.name == name] or [run for run in several if name in run.name]


def find(name: str, folder: Path, having: str | None = None) -> Run:
    """A run by its folder, its name or a part of it, or `last`, the one that was started last. Raises RecipeError.

    `having` a stage: the others, such as those that only serve, are passed over.
    """
    if (Path(name) / "manifest.json").is_file():
        return Run(Path(name).absolute())
    runs = [run for run in every(folder) if not having or having in {step["stage"] for step in run.plan["steps"]}]
    meant = fitting(name, runs)
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise RecipeError(f"{name}: {len(meant)} runs are called so: {', '.join(run.name for run in meant[-5:])}")
    if having and any(name in run.name for run in every(folder)):
        raise RecipeError(f"{name}: a run that has no stage {having}; name the one that trained")
    raise RecipeError(f"{name}: no such run in {folder}; {did_you_mean(name, [run.name for run in runs])}")
