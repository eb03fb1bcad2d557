"""What every scheduler does: start the executor of a run on a machine of its choice. Standard library alone."""

from __future__ import annotations

import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GAVE_UP = "gave up"  # the state of a job that the scheduler let wait for too long: it can be submitted again
NO_ANSWER = "cannot be asked: "  # begins a state; then why not
EXPECTED = ", expected to start "  # in a state, before the time


class Refused(Exception):
    """The scheduler does not accept the job; the text is its reason."""


class Unreachable(Exception):
    """The scheduler does not answer, which tells nothing about the job."""


class Scheduler(ABC):
    """A scheduler as it is reached from this machine. A module here defines one with the name `Scheduler`."""

    cancels_waiting_jobs = True  # otherwise a job that has not begun ends only once it begins

    @abstractmethod
    def submit(self, plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
        """Submit runs, given as plans by run folder; returns the ids of each run's jobs. Raises Refused."""

    @abstractmethod
    def submission(self, plan: Mapping[str, Any], run: str) -> str:
        """The text that `submit` would hand over, for people to read."""

    @abstractmethod
    def state(self, ids: Sequence[str]) -> str:
        """The state of a run's jobs: "running", "waiting: WHY", "gone" or GAVE_UP. Raises Unreachable."""

    @abstractmethod
    def reason(self, ids: Sequence[str]) -> str:
        """Why a run's jobs ended, in the scheduler's words; empty if it no longer knows."""

    @abstractmethod
    def cancel(self, ids: Sequence[str]) -> None:
        """Ask the scheduler to end a run's jobs."""


def command_output(command: Sequence[str], env: Mapping[str, str] | None = None, text: str = "") -> str:
    """The standard output of a scheduler's command. Raises Refused when it fails or is not installed."""
    try:
        done = subprocess.run(command, env=env, input=text, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise Refused(f"{command[0]}: no such command; this machine does not belong to the cluster") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Refused(lines[-1])
    return done.stdout


def python_path(code: str) -> str:
    """PYTHONPATH in a shell script: our code before the user's own entries."""
    return f"{shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}"
