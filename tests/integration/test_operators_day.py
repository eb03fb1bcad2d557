"""A day in an operator's life: ten runs on a real Slurm cluster and two real SSH hosts, and much that goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster_runs import ENDS, START_TWICE, a_run, command_here, until_line
from far_runs import done
from slurm_cluster import Cluster, missing, slurm_cluster
from ssh_host import SSHD, Host, ssh_host

from runner import targets
from runner.execute import files
from runner.record.runs import Run, find

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(not Path(SSHD).exists(), reason="no sshd"),
]
PYTHON = f"sdk.train_python={sys.executable}"
FAILS = "raise SystemExit('no such shape')"
FILLS = "open(__import__('sys').argv[1] + '/big', 'wb').write(bytes(2**24))"
# argv: the output folder. Needs what the stage before it made.
READS = "open('store/objects/convert-drained/training.json').read()\n" + ENDS
TELL = """target.on_end='echo "$RUNNER_STATE $RUNNER_REASON" >>told'"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    return home


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder whose owner may write 4 MB."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Day:
    """The commands of one operator, in the folder `work`, and the runs that were started there."""

    def __init__(self, work: Path):
        self.work, self.shared = work, work.parent / "shared"

    def start(self, name: str, programs: dict[str, str], *words: str) -> Run:
        run = a_run(self.work, programs, f"name={name}", PYTHON, *words, key=name)
        targets.of_run(run).start(run, attached=False)
        return run

    def on_slurm(self, name: str, programs: dict[str, str], *words: str) -> Run:
        return self.start(name, programs, "target=slurm", f"target.folder={self.shared}", *words)

    def run(self, name: str) -> Run:
        return find(name, self.work / "runs")

    def says(self, *words: str, status: int = 0) -> str:
        return done(command_here(self.work, *words), status)

    def states(self, *words: str) -> dict[str, str]:
        """What `runner status --json` says, by the name of the recipe."""
        process = command_here(self.work, "status", "--json", *words)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return {_recipe(row): row["state"] for row in json.loads(out)}

    def rows(self, *command: str) -> dict[str, list[str]]:
        """The words in the first line of each row of a table, by the name of the recipe."""
        lines = (line.split() for line in self.says(*command).splitlines())
        return {line[0].split("-", 2)[2]: line for line in lines if line and line[0][:8].isdigit()}


def _recipe(row: dict[str, Any]) -> str:
    return row["run"].split("-", 2)[2]


def ended(*runs: Run) -> None:
    for run in runs:
        list(targets.of_run(run).follow(run))


def drain(node: str) -> None:
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=maintenance"], check=True)


def resume(node: str) -> None:
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=True)


def names(store: Path) -> set[str]:
    return {path.name for kind in ("objects", "partial") for path in (store / kind).glob("*")}


def test_ten_runs_and_all_that_goes_wrong(cluster: Cluster, home: Path, work: Path, tmp_path: Path) -> None:
    day = Day(work)
    with ssh_host(tmp_path / "alpha", home, "alpha") as alpha, small_disk(tmp_path / "quota") as quota:
        with ssh_host(tmp_path / "beta", home, "beta") as beta:
            unreachable = day.start("unreachable", {"train": START_TWICE}, *beta.target)
            until_line(unreachable, "start 1")
        try:
            _morning(day, alpha, quota)
            _noon(day, alpha, cluster)
            with ssh_host(beta.folder, home, "beta", port=beta.port):
                _evening(day, beta, cluster)
        finally:
            for root in (alpha.root, beta.root):
                root.mkdir(exist_ok=True)
                (root / "end").touch()
            files.wait_until_unlocked(beta.root / "runs" / unreachable.name / "lock")


def _morning(day: Day, alpha: Host, quota: Path) -> None:
    """Nine runs beside the one whose host is down: the states of all, and what each command says of them."""
    made = day.on_slurm("made", {"train": ENDS}, TELL)
    failed = day.on_slurm("failing", {"train": FAILS}, TELL)
    long = day.on_slurm("long", {"train": START_TWICE}, "target.slurm.options.nodelist=trn1")
    until_line(long, "start 1")
    drain("trn2")
    stages = "target.slurm.stages.train.nodelist=trn2"
    day.on_slurm("drained", {"convert": ENDS, "train": READS}, stages)
    slurm = ["target=slurm", f"target.folder={day.shared}", "name=held"]
    day.says("run", "quickstart", *slurm, PYTHON, "target.slurm.options.hold=true", "--detach")
    copied = day.start("copied", {"train": ENDS}, *alpha.target)
    steady = day.start("steady", {"train": START_TWICE}, *alpha.target)
    damaged = day.start("damaged", {"train": ENDS}, *alpha.target)
    full = day.start("full", {"train": FILLS}, "target=ssh", "target.host=alpha", f"target.folder={quota}", TELL)
    ended(made, failed, copied, damaged, full)
    until_line(steady, "start 1")
    (damaged.folder / "manifest.json").write_text('{"recipe": "quick')

    assert sorted((day.shared / "told").read_text().splitlines())[1] == "finished "
    assert "failed train: no such shape (exit status 1; all of its output: " in (day.shared / "told").read_text()
    assert (quota / "told").read_text().startswith("failed train: the disk is full")
    active = {"unreachable", "long", "drained", "held", "steady"}
    states = day.states()
    assert set(states) == active
    assert states["long"] == states["steady"] == "running"
    assert "cannot be asked: target.host: beta: cannot be reached: " in states["unreachable"]
    assert states["held"] == "waiting: JobHeldUser"
    assert states["drained"].startswith("waiting: ReqNodeNotAvail")
    damage = f"runner: runs/{damaged.name}/manifest.json: "
    assert f"{damage}cannot be parsed: the record is damaged; restore the file" in day.says("show", "made")
    over = {"made": "finished", "failing": "failed", "full": "failed", "copied": "finished"}
    assert {name: row[1] for name, row in day.rows("runs").items()} == over | dict.fromkeys(active, "away")
    rows = day.rows("status")
    assert set(rows) == active
    assert rows["long"][1:4] == ["slurm", "running", "train"]
    assert rows["steady"][1:4] == ["alpha", "running", "train"]
    assert rows["unreachable"][1:5] == ["beta", "cannot", "be", "asked:"]
    at_alpha = day.states("--host", f"alpha:{alpha.root}")
    assert at_alpha == {"copied": "finished", "steady": "running", "damaged": "finished"}
    assert day.states("--host", f"alpha:{quota}") == {"full": "failed"}
    assert "no such shape" in day.says("logs", "failing")
    assert "start 1" in day.says("logs", "steady")
    assert "the disk is full" in day.says("show", "full")
    for command in ("logs", "cancel"):
        assert "target.host: beta: cannot be reached" in day.says(command, "unreachable", status=2)


def _noon(day: Day, alpha: Host, cluster: Cluster) -> None:
    """A key is revoked for a while, two runs are cancelled, and space is freed, but nothing that a run needs."""
    key = alpha.folder / "id_ed25519.pub"
    key.rename(key.with_suffix(".revoked"))
    assert "alpha: login as root refused; `ssh alpha` must work" in day.states()["steady"]
    key.with_suffix(".revoked").rename(key)
    for name in ("held", "steady"):
        assert "stopped" in day.says("cancel", name)
    assert "stopped" == day.states("held")["held"] == day.states("steady")["steady"]
    assert len(cluster.squeue("%i")) == 2, "long, and the second job of drained"
    there = ("gc", "--host", f"alpha:{alpha.root}")
    (alpha.root / "store" / "objects" / "old-1").mkdir()
    assert "would remove old-1" in day.says(*there, "--unreachable", "--dry-run")
    assert "removed old-1" in day.says(*there, "--unreachable")
    assert names(alpha.root / "store") == {"train-copied", "train-steady", "train-damaged"}
    here = ("gc", "--in", str(day.shared / "runs"), "--store", str(day.shared / "store"))
    assert names(day.shared / "store") == {"train-made", "train-failing", "train-long", "convert-drained"}
    said = day.says(*here, "--days", "0")
    assert "removed train-made" in said and "removed train-failing" in said
    assert names(day.shared / "store") == {"train-long", "convert-drained"}
    assert "cannot be reached" in day.says("gc", "--host", "beta", "--unreachable", status=2)


def _evening(day: Day, beta: Host, cluster: Cluster) -> None:
    """The node and the host are back: what waited goes on, and at last no run is in progress."""
    resume("trn2")
    ended(day.run("drained"))
    assert day.states("drained") == {"drained": "finished"}
    assert day.states() == {"unreachable": "running", "long": "running"}
    for folder in (day.shared, beta.root):
        (folder / "end").touch()
    ended(day.run("long"), day.run("unreachable"))
    cluster.drain()
    assert day.states() == {}
    done_at_last = {"made", "copied", "long", "unreachable", "drained"}
    rows = day.rows("runs")
    assert {name for name, row in rows.items() if row[1] == "finished"} == done_at_last
    assert {name for name, row in rows.items() if row[1] == "stopped"} == {"held", "steady"}
    assert {name for name, row in rows.items() if row[1] == "failed"} == {"failing", "full"}
