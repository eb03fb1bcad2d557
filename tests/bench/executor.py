"""What the executor adds to each step, beside starting the same commands from Python."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measure import Case, Comparison, Figures, command

_BY_HAND = "import subprocess, sys\nfor _ in range(int(sys.argv[1])): subprocess.run(['true'], check=True)"


def cases(scratch: Path, steps: int) -> Iterator[Case]:
    """A plan of many steps that do nothing."""
    folder = scratch / "executor"
    folder.mkdir()
    plan = folder / "plan.json"
    listed = [
        {"stage": f"step{number}", "title": "nothing", "key": f"step-{number}", "argv": ["true"], "env": {},
         "cached": False, "resumable": False, "nodes": 1, "processes": 1, "packages": {}}
        for number in range(steps)
    ]  # fmt: skip
    plan.write_text(json.dumps({"name": "bench", "store": str(folder / "store"), "steps": listed}), encoding="utf-8")

    def execute() -> Figures:
        run = tempfile.mkdtemp(dir=folder)
        return _a_step(command([sys.executable, "-m", "runner.execute", plan, "--run", run]), steps)

    def by_hand() -> Figures:
        return _a_step(command([sys.executable, "-c", _BY_HAND, steps]), steps)

    yield Case(
        "executor",
        {"execute": execute, "subprocess.run": by_hand},
        [Comparison("milliseconds a step that does nothing", "execute", None, 3.0, "step_ms")],
    )


def _a_step(figures: Figures, steps: int) -> Figures:
    return {**figures, "step_ms": 1000 * figures["seconds"] / steps}
