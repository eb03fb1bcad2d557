"""Weights & Biases, offline: files below `uri`/wandb. Upload them: wandb sync URI/wandb/offline-run-..."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (only the tracker that is chosen has to be installed)
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import wandb

from runner.record import trackers
from runner.record.runs import Run

_LONGEST_TAG = 64  # characters


class Tracker:
    """See `runner.record.trackers.Tracker`."""

    failures = (wandb.Error, ValueError, OSError)  # ValueError: its settings are pydantic's

    def __init__(self, uri: str, project: str):
        self._folder, self._project = Path(uri), project

    def start(self, run: Run) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode="offline",
            project=self._project,
            name=run.name,
            dir=str(self._folder),
            config={**run.recipe, "manifest": trackers.tags(run)},
            tags=[run.recipe["name"][:_LONGEST_TAG]],
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, run: Run, metrics: Mapping[str, float], notes: str) -> None:
        self._run.summary.update(dict(metrics))
        self._run.notes = notes
        self._run.finish(exit_code=0 if run.state in ("finished", "pruned") else 1)
