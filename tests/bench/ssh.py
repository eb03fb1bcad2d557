"""What SSH adds: a cached run here, the same over SSH on loopback, and its transport by rsync and plain ssh.

`first` finds nothing on the host: code and the data travel. `again` finds all. By hand: rsync of the same code and
data, then ssh with the same executor, following nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Case, Comparison, Figures, command, newest_run
from ssh_host import Host, ssh_host

SHORT = ["evaluate=none", "serve=none", "train.max_steps=2", "dataset.train_rows=60"]


def cases(scratch: Path) -> Iterator[Case]:
    """A run whose artifacts are all on the host."""
    folder = scratch / "ssh"
    with ssh_host(folder / "host", folder / "home") as host:
        home = {"HOME": str(host.home), "PYTHONPATH": os.pathsep.join(sys.path)}
        runner = [sys.executable, "-m", "runner", "run", "quickstart", *SHORT]
        far = [*runner, *host.target, f"sdk.train_python={sys.executable}"]

        def run(argv: list[str]) -> Figures:
            return command(argv, folder, home)

        def first() -> Figures:
            for carried in ("code", "inputs"):
                shutil.rmtree(host.root / carried)
            return run(far)

        run(far)
        run(runner)
        yield Case(
            "SSH",
            {
                "by hand": lambda: _by_hand(host, folder),
                "first": first,
                "again": lambda: run(far),
                "local": lambda: run(runner),
            },
            [
                Comparison("a run over SSH, code and data travel", "first", "by hand", 1.2),
                Comparison("a run over SSH, nothing travels", "again", "local", 1.2),
            ],
        )


def _by_hand(host: Host, folder: Path) -> Figures:
    """The newest run's plan, its code and data, by rsync and ssh."""
    run = newest_run(host.root / "runs")
    [code] = (host.root / "code").iterdir()
    shell = f"ssh -F '{host.home}/.ssh/config'"
    sources = [host.root / "code", host.root / "inputs", run]
    deliver = command(["rsync", "-a", "-e", shell, *sources, f"{host.name}:{folder}/plain/"])
    start = f"PYTHONPATH=code/{code.name} python3 -m runner.execute {run.name}/plan.json --run {run.name}"
    execute = command(["ssh", "-F", f"{host.home}/.ssh/config", host.name, f"cd {folder}/plain && {start}"])
    return {"seconds": deliver["seconds"] + execute["seconds"]}
