"""What SSH adds: a cached run here, the same over SSH on loopback, and its transport by rsync and plain ssh.

    python tests/bench/ssh.py

`first` finds nothing on the host: code and the data travel. `again` finds all. The plain way: rsync of the same code
and data, then ssh with the same executor, following nothing. In turn, in one run; needs sshd and rsync.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]
from ssh_host import Host, ssh_host  # noqa: E402

SHORT = ["evaluate=none", "serve=none", "train.max_steps=2", "dataset.train_rows=60"]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--runs", type=int, default=5)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ssh_host(Path(scratch) / "host", Path(scratch) / "home") as host:
        os.environ["HOME"] = str(host.home)
        print(json.dumps({"bench": "ssh", **_measure(host, Path(scratch), args.runs)}))


def _measure(host: Host, scratch: Path, runs: int) -> dict[str, float]:
    far = ["run", "quickstart", *SHORT, *host.target, f"sdk.train_python={sys.executable}"]
    here = ["run", "quickstart", *SHORT]
    _runner(scratch, far)
    _runner(scratch, here)
    ways: dict[str, Callable[[], object]] = {
        "local": lambda: _runner(scratch, here),
        "again": lambda: _runner(scratch, far),
        "first": lambda: _runner(scratch, far),
        "plain": lambda: _plain(host, scratch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            if name == "first":
                for carried in ("code", "inputs"):
                    shutil.rmtree(host.root / carried)
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {f"{name}_seconds": round(statistics.median(times), 2) for name, times in seconds.items()}
    added = [far - here for far, here in zip(seconds["again"], seconds["local"], strict=True)]
    return {**medians, "added_seconds": round(statistics.median(added), 2), "most_added": round(max(added), 2)}


def _runner(folder: Path, words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _plain(host: Host, scratch: Path) -> None:
    """By hand: the newest far run's plan, its code and data, by rsync and ssh."""
    run = max((host.root / "runs").iterdir())
    shell = f"ssh -F {host.home}/.ssh/config".replace(str(host.home), f"'{host.home}'")
    sources = [f"{host.root}/code", f"{host.root}/inputs", f"{run}"]
    subprocess.run(["rsync", "-a", "-e", shell, *sources, f"{host.name}:{scratch}/plain/"], check=True)
    [code] = (scratch / "plain" / "code").iterdir()
    there = f"cd {scratch}/plain && PYTHONPATH={code} python3 -m runner.execute {run.name}/plan.json --run {run.name}"
    subprocess.run(["ssh", "-F", f"{host.home}/.ssh/config", host.name, there], check=True)


if __name__ == "__main__":
    main()
