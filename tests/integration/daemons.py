"""Daemons of the clusters under test."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def started(stack: ExitStack, log: Path, command: Sequence[str | Path], **options: Any) -> subprocess.Popen:
    """A process that writes to `log` and is asked to end with the stack; `options` are those of Popen."""
    output = stack.enter_context(log.open("ab"))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
