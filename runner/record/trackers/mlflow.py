"""MLflow: the project is an experiment. `uri` is MLflow's tracking URI: a server, or a database file."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (only the tracker that is chosen has to be installed)
from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runner.execute import files
from runner.record import trackers
from runner.record.differences import flat
from runner.record.runs import Run

# Read when mlflow is imported. A server that is down must not delay a run: MLflow would retry for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

_STATES = {"finished": "FINISHED", "failed": "FAILED"}
_LONGEST, _MOST = 6000, 100  # MLflow's limits: characters of a parameter, parameters of a call
_REFUSED = re.compile(r"[^/\w.\- :]")  # in the name of a parameter or a metric


class Tracker:
    """See `runner.record.trackers.Tracker`."""

    failures = (MlflowException, OSError)

    def __init__(self, uri: str, project: str):
        if uri.startswith("sqlite:"):  # mlflow-skinny does not depend on what it needs for a database file
            import alembic  # noqa: F401
            import sqlalchemy  # noqa: F401
        self._uri, self._project = uri, project

    def start(self, run: Run) -> None:
        with _exclusive(run.folder.parent / ".mlflow.lock"):
            self._client = MlflowClient(self._uri)
            experiment = self._client.get_experiment_by_name(self._project)
            number = experiment.experiment_id if experiment else self._client.create_experiment(self._project)
        self._run = self._client.create_run(number, run_name=run.name, tags=trackers.tags(run)).info.run_id
        values = flat(run.recipe)
        names = trackers.accepted(values, _REFUSED)
        params = [Param(names[key], str(value)[:_LONGEST]) for key, value in values.items()]
        for start in range(0, len(params), _MOST):
            self._client.log_batch(self._run, params=params[start : start + _MOST])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        now, names = round(time.time() * 1000), trackers.accepted(values, _REFUSED)
        points = [Metric(names[key], value, now, step) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=points)

    def finish(self, run: Run, metrics: Mapping[str, float], notes: str) -> None:
        self.metrics(metrics, 0)
        self._client.set_tag(self._run, "mlflow.note.content", notes)
        self._client.set_terminated(self._run, _STATES.get(run.state, "KILLED"))


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """One run at a time: MLflow fails when two processes create its tables, or an experiment, at once."""
    with lock.open("wb") as stream:
        files.lock(stream)
        yield
