"""What the list shows of each run. A record is read again only if it changed; no request waits for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.commands.progress import last_progress
from runner.commands.records import as_json, headline
from runner.errors import RecipeError
from runner.execute.run_folder import EVENTS
from runner.metrics import RANKING, decisive
from runner.record import runs
from runner.record.runs import ACTIVE, AWAY, Run, Snapshot
from runner.record.training_curve import finite, is_training_step
from runner.ui.machines import Machines

_FILES = ("", EVENTS, "results/train", "results/evaluate")
_MOST_POINTS = 60  # of a sparkline
_BUDGET = 0.5  # seconds of reading in one request
DAMAGED = "damaged"  # the state of a run whose record cannot be read

Row = dict[str, Any]
_Signature = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class News:
    """The rows that changed since a revision. `total` counts all runs in the folder, `unread` those without a row."""

    revision: int
    rows: Sequence[Row]
    total: int
    unread: int


class Index:
    """The rows of the list of the runs in a folder."""

    def __init__(self, folder: Path, machines: Machines):
        self._folder = folder
        self._read: dict[Path, tuple[_Signature, Row]] = {}
        self._shown: dict[Path, tuple[int, Row]] = {}
        self._revision = 0
        self._machines = machines
        self._lock = threading.Lock()

    def news(self, since: int = 0, budget: float = _BUDGET) -> News:
        """What changed since a revision, 0 for all, after up to `budget` seconds of reading, the newest runs first."""
        with self._lock:
            found = sorted(runs.recorded(self._folder), key=_age)
            self._read_some(found, budget)
            rows = {run: dict(self._read[run.folder][1]) for run in found if run.folder in self._read}
            self._machines.complete({run: row for run, row in rows.items() if row["state"] == AWAY})
            self._shown = {run.folder: self._numbered(run.folder, row) for run, row in rows.items()}
            changed = [row for revision, row in self._shown.values() if revision > since]
            return News(self._revision, changed, len(found), len(found) - len(rows))

    def _read_some(self, found: Sequence[Run], budget: float) -> None:
        end = time.monotonic() + budget
        for run in found:
            if time.monotonic() > end:
                break
            self._update(run)

    def _update(self, run: Run) -> None:
        signature = _signature(run.folder)
        known = self._read.get(run.folder)
        if known is None or known[0] != signature:
            self._read[run.folder] = signature, _row(Snapshot(run.folder))
        elif known[1]["state"] in ACTIVE:  # a process may end without writing anything
            known[1]["state"] = run.state

    def _numbered(self, folder: Path, row: Row) -> tuple[int, Row]:
        """A row with the revision in which it became what it is."""
        shown = self._shown.get(folder)
        if shown and shown[1] == row:
            return shown
        self._revision += 1
        return self._revision, row


def _age(run: Run) -> float:
    """Sorts the newest first, so that the runs of today are read first."""
    try:
        return -run.folder.stat().st_mtime
    except OSError:  # it was removed meanwhile
        return 0.0


def _signature(folder: Path) -> _Signature:
    return tuple(_version(folder / name) for name in _FILES)


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _row(run: Run) -> Row:
    """A row; of a damaged record, with what is wrong as its `reason`."""
    try:
        progress = asdict(last_progress(run.events()))
        summary = {name: value for name, value in as_json(run).items() if name not in ("folder", "stages", "metrics")}
        return {
            **summary, **progress, "where": run.where, "sweep": run.folder.parent.name if run.sweep else "",
            "result": headline(run), "score": _score(run.metrics()), "reason": _reason(run),
            "curve": sparkline(run.events()),
        }  # fmt: skip
    except (RecipeError, OSError) as error:
        return {"run": run.name, "state": DAMAGED, "started": "", "reason": str(error)}


def _score(metrics: Mapping[str, float]) -> float | None:
    """The metric that tells most of a run, as a number of which more is better."""
    name = decisive([metrics])
    return -RANKING[name].sort_key(metrics[name]) if name else None


def _reason(run: Run) -> str:
    """Why a run was pruned or has failed."""
    failed = [event for event in run.stages().values() if event["state"] == "failed"]
    return run.prune_reason or (f"{failed[-1]['stage']}: {failed[-1]['reason']}" if failed else "")


def sparkline(events: Iterator[dict[str, Any]]) -> Sequence[float]:
    """The training losses that a run reported itself, some dozen of them at equal distances."""
    steps = (finite(event["values"]) for event in events if is_training_step(event))
    losses = [float(f"{values['loss']:.4g}") for values in steps if "loss" in values]
    stride = -(-len(losses) // _MOST_POINTS)
    return losses[::-stride][::-1] if stride > 1 else losses
