"""TensorBoard: a folder of event files for each run, below the folder `uri`. View them: tensorboard --logdir URI"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (only the tracker that is chosen has to be installed)
from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from runner.record import trackers
from runner.record.differences import flat
from runner.record.runs import Run


class Tracker:
    """See `runner.record.trackers.Tracker`. TensorBoard has no projects: `project` is one of the texts."""

    failures = (OSError,)

    def __init__(self, uri: str, project: str):
        self._folder, self._project = Path(uri), project

    def start(self, run: Run) -> None:
        self._writer = EventFileWriter(str(self._folder / run.name))
        self._add(hparams_pb({name: _scalar(value) for name, value in flat(run.recipe).items()}))
        for name, value in {"project": self._project, **trackers.tags(run)}.items():
            self._add(text_pb(name, value))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._add(scalar_pb(name, value), step)
        self._writer.flush()

    def finish(self, run: Run, metrics: Mapping[str, float], notes: str) -> None:
        self._add(text_pb("notes", f"{notes}\nstate: {run.state}".replace("\n", "  \n")))  # Markdown's line break
        self.metrics(metrics, 0)
        self._writer.close()

    def _add(self, summary: Any, step: int = 0) -> None:
        self._writer.add_event(Event(summary=summary, step=step, wall_time=time.time()))


def _scalar(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float) else str(value)
