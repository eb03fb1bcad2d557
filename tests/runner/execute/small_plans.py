"""Plans of small steps with real child processes, for tests of the executor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1], 'made').write_text('x')"


def step(store: Path, stage: str, code: str, *, key: str = "", cached: bool = True, resumable: bool = False) -> dict:
    key = key or f"{stage}-1"
    output = str(store / "partial" / key)
    argv = [sys.executable, "-c", code, output]
    return {"stage": stage, "key": key, "argv": argv, "env": {}, "cached": cached, "resumable": resumable}


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def states(run: Path) -> list[tuple[str, str]]:
    return [(event["stage"], event["state"]) for event in events(run) if event["event"] == "step"]


def start(run: Path, plan: dict, *flags: str) -> subprocess.Popen[str]:
    """Start the executor of a plan in a process of its own."""
    run.mkdir(exist_ok=True)
    (run / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "runner.execute", str(run / "plan.json"), "--run", str(run), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
