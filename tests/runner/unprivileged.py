"""Runs the runner as a user whom the permissions of files bind, also where the tests run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from runner.paths import ROOT

_CAPABILITIES = "-dac_override,-dac_read_search,-fowner"
_WITHOUT = ["setpriv", f"--bounding-set={_CAPABILITIES}", f"--inh-caps={_CAPABILITIES}"]
IS_BOUND = os.getuid() != 0 or shutil.which("setpriv") is not None


def runner(folder: Path, *words: str) -> tuple[int, str]:
    """Status, and all lines that it prints, of a command in `folder`."""
    command = [*(_WITHOUT if os.getuid() == 0 else []), sys.executable, "-m", "runner", *words]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False,
    )  # fmt: skip
    return done.returncode, done.stdout
