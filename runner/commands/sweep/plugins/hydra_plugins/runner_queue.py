"""A Hydra launcher for targets with a queue: it submits all trials of a batch, then follows them.

Hydra finds launchers only in packages named hydra_plugins; `runner.commands.sweep.launcher` adds this one to its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn


class QueueLauncher(BasicLauncher):
    """Composes the trials one after the other, as Hydra requires, and runs them together."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        job: Any = self.task_function  # a runner.commands.sweep.trial.Job
        self.task_function = job.prepare
        returned = super().launch(job_overrides, initial_job_idx)
        values = job.run_together([result.return_value for result in returned])
        for result, value in zip(returned, values, strict=True):
            result.return_value = value
        self.task_function = job
        return returned


_NODE = {"_target_": f"{__name__}.{QueueLauncher.__name__}"}
ConfigStore.instance().store(group="hydra/launcher", name="queue", node=_NODE, provider="runner")
