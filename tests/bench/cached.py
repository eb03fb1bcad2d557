"""A run whose artifacts are all in the store, beside `dvc repro` with nothing to do on the same artifacts.

    python tests/bench/cached.py --dvc PATH_OF_DVC

Both are measured as whole processes, in turn, in one run; DVC (not a dependency; `make bench` installs it in .venv-bench) gets a
pipeline of the same six stages, each depending on the artifact before it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNNER = [sys.executable, "-m", "runner", "run", "quickstart", "serve=none"]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--dvc", default=shutil.which("dvc"), help="the dvc command")
    flags.add_argument("--runs", type=int, default=7)
    flags.add_argument("overrides", nargs="*", help="of the recipe quickstart, for a shorter one")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        runner = [*RUNNER, f"paths.runs={scratch}/runs", *args.overrides]
        subprocess.run(runner, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        commands = {"runner": (runner, ROOT)}
        if args.dvc:
            commands["dvc"] = ([args.dvc, "repro", "--quiet"], _dvc_project(Path(scratch), args.dvc))
        _report(_measure(commands, args.runs))


def _dvc_project(scratch: Path, dvc: str) -> Path:
    """A DVC pipeline over copies of the artifacts of the newest run, already reproduced."""
    project = scratch / "dvc"
    project.mkdir()
    artifacts = sorted((scratch / "runs").iterdir())[-1] / "artifacts"
    stages, before = [], "source"
    (project / before).write_text("source")
    for stage in ("fetch", "tokenize", "convert", "train", "export", "evaluate"):
        copy = f"cp -rL {artifacts.resolve() / stage} {stage}"
        stages.append(f"  {stage}:\n    cmd: {copy}\n    deps: [{before}]\n    outs: [{stage}]\n")
        before = stage
    (project / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    for command in (["init", "--no-scm", "--quiet"], ["config", "core.analytics", "false"], ["repro", "--quiet"]):
        subprocess.run([dvc, *command], cwd=project, check=True)
    return project


def _measure(commands: dict[str, tuple[list[str], Path]], runs: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, (command, folder) in commands.items():
            started = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _report(seconds: dict[str, list[float]]) -> None:
    medians = {f"{name}_seconds": round(statistics.median(times), 3) for name, times in seconds.items()}
    if "dvc" in seconds:
        pairs = [ours / theirs for ours, theirs in zip(seconds["runner"], seconds["dvc"], strict=True)]
        medians["ratio"] = round(statistics.median(pairs), 3)
    print(json.dumps({"bench": "cached run", **medians}))


if __name__ == "__main__":
    main()
