"""The folder that records a run: the names of its files, and what they say about the run. Standard library alone."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runner.execute import files

EVENTS = "events.jsonl"
LOCK = "lock"  # locked by the executor of the run for as long as it lives; holds its process id
EXECUTOR_LOG = "executor.log"
JOB = "scheduled.json"  # the scheduler that starts the run, and its ids: {"scheduler": NAME, "ids": [...]}
NODES = "nodes.json"  # through which the nodes of a step find each other
CANCELLED = "cancelled"  # exists once the run was cancelled: a job that has not begun then does nothing
PRUNED = "pruned"  # exists in the record of a trial that its sweep ended early; says why
KILLED = "killed"  # exists in the record of a run elsewhere when its machine said that it was killed
SECRETS = "secrets.json"  # environment variables that no command line or record may show
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # the variables that may be in it
SWEEP = "sweep.json"  # in the folder of a sweep, which holds the folders of its trials

_RECORD = ("manifest.json", "plan.json", "recipe.yaml", EVENTS)  # a folder with any of them is a record
# The fields that readers rely on, in any event that has them, by kind of event, and of a step by its state.
_NUMBER = (int, float)
_OPTIONAL = {
    "time": _NUMBER, "seconds": _NUMBER, "peak_memory": (int, type(None)), "reason": str, "status": int,
    "compiled": str,
}  # fmt: skip
_FIELDS: dict[str, dict[str, Any]] = {
    "run": {"state": str},
    "step": {"stage": str, "state": str},
    "progress": {"done": _NUMBER, "total": _NUMBER, "unit": str},
    "metric": {"stage": str, "at": (int, type(None)), "values": dict},
    "log": {"level": str, "message": str},
    "checkpoint": {"stage": str},
    "interrupted": {"stage": str},
    "serving": {"url": str, "models": list},
}
_STEP_FIELDS: dict[str, dict[str, Any]] = {
    "begun": {},
    "waiting": {"holder": str},
    "cached": {},
    "finished": {"seconds": _NUMBER},
    "failed": {"reason": str},
}

FINAL = ("finished", "failed")  # states after which no step follows
ENDED = (*FINAL, "stopped")  # a job that was stopped may be started again by its scheduler


def recorded(folder: Path) -> list[Path]:
    """The records of runs in a folder and of the trials of the sweeps in it, also the damaged ones.

    Raises OSError where a folder cannot be read: a run in it is not to be taken for none.
    """
    folders = files.inside(folder)
    folders += [trial for sweep in files.inside(folder / "sweeps") for trial in files.inside(sweep)]
    return [path for path in folders if is_record(path)]


def is_record(folder: Path) -> bool:
    """Whether a folder is the record of a run, be it damaged; one that may not be entered is taken for one."""
    if folder.is_dir() and not os.access(folder, os.X_OK):
        return True
    return any((folder / name).is_file() for name in _RECORD)


def run_name(run: Path) -> str:
    """The folder's name; of a trial, whose folder is only a number, SWEEP/NUMBER."""
    return f"{run.parent.name}/{run.name}" if (run.parent / SWEEP).is_file() else run.name


def executor_pid(run: Path) -> int | None:
    """The process id of the executor that is at work on this machine; None if there is none, 0 if it is not told."""
    holder = files.lock_holder(run / LOCK)
    return None if holder is None else int(holder) if holder.isdecimal() else 0


def in_progress(run: Path) -> bool:
    """Whether an executor of the run is alive on this machine."""
    return executor_pid(run) is not None


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None for a line that a full disk or a crash of the machine damaged."""
    try:
        event = json.loads(line)
        return event if _is_complete(event) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_complete(event: dict[str, Any]) -> bool:
    fields = {"event": str, **_FIELDS.get(event["event"], {})}
    if event["event"] == "step":
        fields = {**fields, **_STEP_FIELDS[event["state"]]}
    fields = {**{name: types for name, types in _OPTIONAL.items() if name in event}, **fields}
    if not all(fits(event[name], types) for name, types in fields.items()):
        return False
    return event["event"] != "metric" or all(isinstance(value, _NUMBER) for value in event["values"].values())


def fits(value: object, types: type | tuple[type, ...]) -> bool:
    """Whether a value is of one of these types, and as a float neither NaN nor infinite."""
    return isinstance(value, types) and (not isinstance(value, float) or math.isfinite(value))


def read_events(run: Path, *kinds: str) -> Iterator[dict[str, Any]]:
    """The events in order, of some `kinds` or all, without damaged lines and one that is being written.

    None where the file is missing. Lines of other kinds are not parsed: most of a long run are its metrics.
    """
    named = [f'"event": "{kind}"'.encode() for kind in kinds]
    for line in _lines(run):
        if not named or any(name in line for name in named):
            event = parse_event(line)
            if event and (not kinds or event["event"] in kinds):
                yield event


def _lines(run: Path) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), (run / EVENTS).open("rb") as lines:
        yield from (line for line in lines if line.endswith(b"\n"))


def time_span(run: Path) -> tuple[float, float]:
    """When the first and the last event happened, in Unix time; zeros without events."""
    lines = list(_lines(run))
    first, last = (next(_times(order), 0.0) for order in (lines, reversed(lines)))
    return first, last


def _times(lines: Iterable[bytes]) -> Iterator[float]:
    return (event["time"] for event in filter(None, map(parse_event, lines)) if "time" in event)


def last_event(run: Path) -> float:
    """When something was recorded last, in Unix time; zero if the record has been removed meanwhile."""
    for path in (run / EVENTS, run):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0


def last_state(run: Path) -> str | None:
    """The latest state in the events: started, interrupted, finished, failed or stopped; None before it began."""
    states = [event["state"] for event in read_events(run, "run")]
    return states[-1] if states else None


def stage_states(run: Path) -> dict[str, str]:
    """The latest state of each stage, in the order in which the stages began."""
    return {event["stage"]: event["state"] for event in read_events(run, "step")}
