"""What SSH adds: a cached run here, the same over SSH on loopback, and its transport by rsync and plain ssh.

`first` finds nothing on the host: code and the data travel. `again` finds all. By hand: rsync of the same code and
data, then ssh with the same executor, following nothing. And a folder of MEGABYTES, as a model is carried.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Case, Comparison, Figures, command, newest_run
from ssh_host import Host, ssh_host

MEGABYTES = 512
CARRY = """
import sys
from runner.targets import bundle
from runner.targets.transport.session import Sessions
from runner.targets.transport.ssh import SSHTransport
host, root, folder = sys.argv[1:]
def feed(stream):
    with bundle.archive(stream) as archive:
        bundle.write_carried(archive, {"carried/model": folder})
Sessions(SSHTransport(host), "python3", root).call(["receive"], feed)
"""
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

        yield _folder(host, folder, home)
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


def _folder(host: Host, folder: Path, home: dict[str, str]) -> Case:
    """A folder that is carried to the host, which has nothing of it."""
    source, carried = folder / "model", host.root / "carried"
    source.mkdir()
    with (source / "model.safetensors").open("wb") as file:
        for _ in range(MEGABYTES):
            file.write(os.urandom(10**6))

    def carry(argv: list[object]) -> Figures:
        shutil.rmtree(carried, ignore_errors=True)
        carried.mkdir(parents=True)
        os.sync()
        figures = command(argv, folder, home)
        return {**figures, "mb_a_second": MEGABYTES / figures["seconds"]}

    rsync = [*_rsync(host), source, f"{host.name}:{carried}/"]
    ours = [sys.executable, "-c", CARRY, host.name, host.root, source]
    what = f"a folder of {MEGABYTES} MB over SSH"
    return Case(
        what,
        {"ours": lambda: carry(ours), "rsync": lambda: carry(rsync)},
        [
            Comparison(f"{what}: MB a second", "ours", None, 200, "mb_a_second", at_least=True),
            Comparison(f"{what}: seconds", "ours", "rsync", 1.1),
        ],
    )


def _rsync(host: Host) -> list[str]:
    return ["rsync", "-a", "-e", f"ssh -F '{host.home}/.ssh/config'"]


def _by_hand(host: Host, folder: Path) -> Figures:
    """The newest run's plan, its code and data, by rsync and ssh."""
    run = newest_run(host.root / "runs")
    [code] = (host.root / "code").iterdir()
    sources = [host.root / "code", host.root / "inputs", run]
    deliver = command([*_rsync(host), *sources, f"{host.name}:{folder}/plain/"])
    start = f"PYTHONPATH=code/{code.name} python3 -m runner.execute {run.name}/plan.json --run {run.name}"
    execute = command(["ssh", "-F", f"{host.home}/.ssh/config", host.name, f"cd {folder}/plain && {start}"])
    return {"seconds": deliver["seconds"] + execute["seconds"]}
