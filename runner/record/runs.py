"""Recorded runs: read from their folders, found by name."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from runner.compose.schema import Recipe, Target, Tracker
from runner.compose.validate import InvalidKey, build
from runner.errors import RecipeError, did_you_mean
from runner.execute import agent, run_folder
from runner.plan.model import HERE, Step
from runner.record import contents
from runner.record.contents import DamagedRecord, read_json
from runner.record.old_keys import old_where
from runner.startup import print_error

T = TypeVar("T")

AWAY = "away"
ACTIVE = ("running", AWAY)  # states of a run that has not ended, as far as its record says
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
        """The description of its sweep, if it is a trial. Raises DamagedRecord, as all that reads the record does."""
        file = self.folder.parent / run_folder.SWEEP
        return read_json(file, contents.SWEEP) if file.is_file() else None

    @cached_property
    def started(self) -> float:
        """When it was created, in Unix time."""
        text = self.manifest["started"]
        fraction = ".%f" if "." in text else ""
        try:
            return datetime.strptime(text, f"%Y-%m-%dT%H:%M:%S{fraction}%z").timestamp()
        except ValueError:
            raise DamagedRecord(self.folder / "manifest.json", "started is no time") from None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The overrides, the code, the package versions and the machine."""
        return read_json(self.folder / "manifest.json", contents.MANIFEST)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan as in plan.json."""
        return {"carried": {}, "job": None, **read_json(self.folder / "plan.json", contents.PLAN)}

    @property
    def steps(self) -> list[Step]:
        """The steps of its plan, without what only another version knows of them."""
        known = {field.name for field in dataclasses.fields(Step)}
        return [Step(**{key: step[key] for key in step.keys() & known}) for step in self.plan["steps"]]

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The composed recipe as plain values, with today's keys."""
        return contents.read_recipe(self.folder / "recipe.yaml")

    @property
    def price_per_hour(self) -> float | None:
        """US dollars for an hour of one machine, if it has a price. Earlier versions had it in the recipe alone."""
        if "price_per_hour" in self.manifest:
            return self.manifest["price_per_hour"]
        return self.recipe["hardware"]["price_per_hour"]

    def typed_recipe(self) -> Recipe:
        """The composed recipe. Raises RecipeError where a record of another version has keys that are unknown here."""
        return self._typed(Recipe, self.recipe)

    def typed_target(self) -> Target:
        """The target section of its recipe. Raises RecipeError like `typed_recipe`."""
        return self._typed(Target, self.recipe["target"])

    def typed_tracker(self) -> Tracker:
        """The tracker section of its recipe. Raises RecipeError like `typed_recipe`."""
        return self._typed(Tracker, self.recipe["tracker"])

    def _typed(self, kind: type[T], values: Mapping[str, Any]) -> T:
        try:
            return build(kind, values)
        except InvalidKey as error:
            version = (self.manifest["git"] or {}).get("commit", "another version")[:12]
            advice = f"recorded by {version}: check that version out, or edit recipe.yaml"
            raise RecipeError(f"{self.folder / 'recipe.yaml'}: {error} ({advice})") from error

    def events(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The events in order, of some kinds or all."""
        return run_folder.read_events(self.folder, *kinds)

    @property
    def in_progress(self) -> bool:
        """Whether its executor is alive on this machine."""
        return run_folder.in_progress(self.folder)

    @property
    def state(self) -> str:
        """finished, failed, stopped, pruned or running; killed, if it ended without reporting.

        Of a run elsewhere the last state that was received; `away` if that was not an end.
        """
        if (self.folder / run_folder.JOB).exists():
            read_json(self.folder / run_folder.JOB, contents.JOB)
        state = agent.state(self.folder)
        if state == "stopped" and self.prune_reason is not None:
            return "pruned"
        is_away = state == "killed" and self.where != HERE and not (self.folder / run_folder.KILLED).exists()
        return AWAY if is_away else state

    @property
    def prune_reason(self) -> str | None:
        """Why its sweep ended it early; None if it did not."""
        file = self.folder / run_folder.PRUNED
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None

    @property
    def where(self) -> str:
        """What people call the machine or cluster that it was started on."""
        return self.plan.get("where") or old_where(self.recipe["target"])

    def stages(self) -> dict[str, dict[str, Any]]:
        """The last event of every stage: its state, and seconds if it has ended."""
        return {event["stage"]: event for event in self.events("step")}

    def seconds(self) -> float:
        """The time from the first event to the last."""
        first, last = run_folder.time_span(self.folder)
        return last - first

    @property
    def last_event(self) -> float:
        """When something was recorded last, in Unix time."""
        return run_folder.last_event(self.folder)

    def result(self, stage: str, name: str) -> dict[str, Any] | None:
        """The content of a JSON file that a stage wrote; None if there is none."""
        path = self.folder / "results" / stage / name
        return read_json(path, contents.RESULTS.get(name, {})) if path.is_file() else None

    def samples(self, most: int) -> list[dict[str, Any]] | None:
        """The first answers of the evaluation, `most` of them; None where they are not, or no longer, there."""
        if not self.samples_file.is_file():
            return None
        return list(itertools.islice(contents.read_lines(self.samples_file, contents.SAMPLE), most))

    @property
    def samples_file(self) -> Path:
        """Where the answers of the evaluation are, unless the store was cleared since."""
        return self.folder / "artifacts" / "evaluate" / "samples.jsonl"

    @property
    def has_results(self) -> bool:
        """Whether results of its stages are here."""
        return (self.folder / "results").is_dir()

    @property
    def adapter(self) -> Path:
        """Where its adapter is in PEFT's format: of a run elsewhere once it was fetched, else in the store."""
        return self.folder / "artifacts" / "export" / "adapter"

    def check(self) -> None:
        """Read all that a report reads. Raises DamagedRecord."""
        _ = self.sweep, self.started, self.plan, self.recipe, self.state, self.stages(), self.metrics()
        for stage, name in (("serve", "smoke.json"), ("tokenize", "statistics.json"), ("tokenize", "preview.json")):
            self.result(stage, name)

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


class Snapshot(Run):
    """A run whose events are read once: for what asks many questions about the same moment."""

    @cached_property
    def _events(self) -> list[dict[str, Any]]:
        return list(super().events())

    def events(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The events in order, those of the first time, of some kinds or all."""
        return (event for event in self._events if not kinds or event["event"] in kinds)


def every(folder: Path) -> list[Run]:
    """The runs in a folder and the trials of the sweeps in it, in the order in which they were started.

    For each damaged record, a line is printed to stderr.
    """
    return sorted(readable(recorded(folder), lambda run: run.started), key=lambda run: (run.started, run.folder))


def recorded(folder: Path) -> list[Run]:
    """The runs in a folder and the trials of the sweeps in it, also those whose record is damaged.

    Raises OSError where a folder cannot be read.
    """
    return [Run(path) for path in run_folder.recorded(folder)]


def readable(runs: Iterable[Run], read: Callable[[Run], object]) -> list[Run]:
    """The runs of whose records `read` can read what it needs; for each other one, a line is printed to stderr."""
    return list(read_each(runs, read))


def read_each(runs: Iterable[Run], read: Callable[[Run], T]) -> dict[Run, T]:
    """What `read` returns of each run; for one whose record is damaged, a line is printed to stderr instead."""
    found: dict[Run, T] = {}
    for run in runs:
        try:
            found[run] = read(run)
        except (DamagedRecord, OSError) as error:
            if run.folder.exists():  # otherwise it was removed meanwhile
                _report_once(str(error))
    return found


@cache
def _report_once(problem: str) -> None:
    print_error(problem)


def find_all(name: str, folder: Path) -> list[Run]:
    """The trials of the sweep `name`, or the runs in the folder `name`, or else the one run that `find` finds.

    Only runs that a report can be written about. For each damaged record in a folder, a line is printed to stderr.
    """
    for candidate in (folder / "sweeps" / name, Path(name)):
        runs = every(candidate) if candidate.is_dir() else []
        if runs:
            return readable(runs, Run.check)
    run = find(name, folder)
    run.check()
    return [run]


def matching(name: str, runs: Sequence[Run]) -> list[Run]:
    """The runs (oldest first) that a name may mean: the `last`, the one of that name, or all whose name contains it.

    Prints to stderr which run is the last.
    """
    chosen = names_matching(name, [run.name for run in runs])
    if name == "last" and runs:
        print(f"runner: last is {runs[-1].name}", file=sys.stderr)
    return [run for run in runs if run.name in chosen]


def names_matching(name: str, names: Sequence[str]) -> Sequence[str]:
    """The names (oldest first) that a name may mean: the `last`, the one that is equal, or all that contain it."""
    if name == "last":
        return names[-1:]
    return [name] if name in names else [other for other in names if name in other]


def find(name: str, folder: Path, having: str | None = None) -> Run:
    """The run of that folder, or in `folder` the one whose name is or contains `name`, or the `last` that was started.

    With `having`, a stage, only among runs that have it. Raises RecipeError unless exactly one run matches.
    """
    if run_folder.is_record(Path(name)):
        return Run(Path(name).absolute())
    exact = [run for run in recorded(folder) if run.name == name]
    runs = exact or every(folder)
    if having:
        runs = readable(runs, lambda run: run.plan)
        runs = [run for run in runs if having in {step["stage"] for step in run.plan["steps"]}]
    matches = matching(name, runs)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(run.name for run in matches[-_SHOWN_MATCHES:])
        raise RecipeError(f'"{name}" matches {len(matches)} runs: {names}; write more of the name')
    if having and any(name in run.name for run in every(folder)):
        raise RecipeError(f"{name}: this run has no stage {having}; name a run that has it")
    raise RecipeError(f"{name}: no such run in {folder}; {did_you_mean(name, [run.name for run in runs])}")
