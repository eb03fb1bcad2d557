"""Schedulers that start the executor of a run on a machine of their choice. Standard library alone: they travel.

Each module has

    submit(plans)        hand over runs, plans by their folders; returns the ids of the jobs of each. Raises Refused
    look(ids)            "running", "waiting: WHY" or "gone". Raises Unreachable
    cancel(ids)          ask it to end the jobs; ENDS_WAITING says whether it can do that to one that has not begun
    reason(ids)          why jobs ended, in its words; empty if it does not know any more
    text(plan, run)      what it is handed, to read
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence


class Refused(Exception):
    """The scheduler does not take the job; the text is its reason."""


class Unreachable(Exception):
    """The scheduler does not answer. It says nothing of the job."""


def ask(command: Sequence[str], env: Mapping[str, str] | None = None, text: str = "") -> str:
    """What a scheduler's command prints. Raises Refused with what it says when it fails or is not installed."""
    try:
        done = subprocess.run(command, env=env, input=text, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise Refused(f"no {command[0]} here; this is no machine of the cluster") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Refused(said[-1])
    return done.stdout


def path(code: str) -> str:
    """PYTHONPATH in a shell script: our code before what the user has there."""
    return f"{shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}"
