"""The command as a user types it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def runner(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`runner ARGS` in a folder."""
    return subprocess.run([sys.executable, "-m", "runner", *args], cwd=folder, capture_output=True, text=True)
