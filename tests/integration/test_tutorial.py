"""Every command of docs/tutorial.md, one after another in an empty folder, as a reader types them.

Only runs are made shorter: by options that are appended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from runner.paths import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
SHORT = "dataset.train_rows=40 train.max_steps=2 train.warmup_ratio=0 evaluate.examples=4"


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_works(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "runner").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m runner "$@"\n')
    (programs / "runner").chmod(0o755)
    lines = [f"{line} {SHORT}" if line.startswith("runner run ") else line for line in commands()]
    assert len(lines) >= 12
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    script = "set -ex\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
