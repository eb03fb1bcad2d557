"""A real Slurm cluster on loopback: munge, a controller, and nodes with NeuronCores as a resource. Needs root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import daemons
from ssh_host import free_ports

DAEMONS = ("munged", "slurmctld", "slurmd")
CPUS, CORES = 16, 16  # of a node, declared: the machine may have less

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=500
GresTypes=neuron
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=trn Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in DAEMONS if not _daemon(name)]
    if absent:
        return f"no {', '.join(absent)}"
    return "" if os.getuid() == 0 else "not root"


def _daemon(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@dataclass
class Cluster:
    """`nodes` are the daemons by name; SLURM_CONF names `config`."""

    config: Path
    nodes: dict[str, subprocess.Popen]
    stack: ExitStack

    def start_node(self, name: str) -> None:
        self.nodes[name] = _start(self.stack, "slurmd", "-D", "-N", name)
        _await(["srun", f"--nodelist={name}", "true"])

    def kill_node(self, name: str) -> None:
        """As when the machine dies: the daemon and all that it started."""
        self.nodes[name].kill()
        self.nodes[name].wait()
        for pid in self._jobs_on(name):
            os.kill(pid, signal.SIGKILL)

    def _jobs_on(self, name: str) -> list[int]:
        """Processes of jobs, which know their node, and those who watch over them, their parents."""
        marks = {f"SLURMD_NODENAME={name}".encode(), f"SLURM_CONF={self.config}".encode()}
        found: set[int] = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if marks <= set((process / "environ").read_bytes().split(b"\0")):
                    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    watcher = "slurmstepd" in Path(f"/proc/{parent}/cmdline").read_text()
                    found |= {int(process.name), *([parent] if watcher else [])}
        return sorted(found)

    def clear(self) -> None:
        """Cancel every job, and wait until none is left."""
        subprocess.run(["scancel", f"--user={os.getuid()}"], check=True)
        self.drain()

    def drain(self) -> None:
        """Wait for jobs whose script is about to end to be gone."""
        for _ in range(300):
            if not self.squeue():
                return
            time.sleep(0.1)
        raise TimeoutError(self.squeue("%i %T"))

    def squeue(self, form: str = "%T") -> list[str]:
        return subprocess.run(["squeue", "-h", "-o", form], capture_output=True, text=True).stdout.split()


@contextmanager
def slurm_cluster(folder: Path, nodes: int = 2) -> Iterator[Cluster]:
    """Start it, with SLURM_CONF set in this process, and end it."""
    for each in (folder, *folder.parents):  # munged, which is another user, passes through
        if each.stat().st_uid == os.getuid():
            each.chmod(each.stat().st_mode | 0o011)
    munge, config = folder / "munge", folder / "slurm.conf"
    names = [f"trn{number}" for number in range(1, nodes + 1)]
    port, *ports = free_ports(nodes + 1)
    _write_configuration(config, munge, names, port, ports)
    previous = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(config)
    with ExitStack() as stack:
        stack.callback(_restore, previous)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        _start(stack, "munged", "-F", *(f"--{flag}={munge}/{name}" for flag, name in files.items()), user="munge")
        _await(["munge", "-S", f"{munge}/socket", "-n"])
        _start(stack, "slurmctld", "-D", "-i")
        cluster = Cluster(config, {}, stack)
        for name in names:
            cluster.start_node(name)
        stack.callback(_end_jobs)
        yield cluster


def _write_configuration(config: Path, munge: Path, names: list[str], port: int, ports: list[int]) -> None:
    folder, host = config.parent, socket.gethostname().partition(".")[0]
    (folder / "state").mkdir()
    munge.mkdir()
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    for each in (munge, munge / "key"):
        shutil.chown(each, "munge", "munge")
    munge.chmod(0o755)
    lines, resources = [], []
    for name, its in zip(names, ports, strict=True):
        (folder / f"spool-{name}").mkdir()
        where = f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={its}"
        lines.append(f"{where} CPUs={CPUS} RealMemory=64000 Gres=neuron:{CORES} State=UNKNOWN")
        resources.append(f"NodeName={name} Name=neuron Count={CORES}")
    config.write_text(_CONFIG.format(host=host, port=port, munge=munge, folder=folder, nodes="\n".join(lines)))
    (folder / "gres.conf").write_text("\n".join(resources) + "\n")


def _start(stack: ExitStack, name: str, *words: str, user: str | None = None) -> subprocess.Popen:
    program = _daemon(name)
    assert program
    log = Path(os.environ["SLURM_CONF"]).with_name(f"{name}-{len(words)}.log")
    return daemons.started(stack, log, [program, *words], user=user, group=user)


def _await(command: list[str]) -> None:
    """Until a command that needs the daemons succeeds; srun itself waits for nodes."""
    for _ in range(100):
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0:
            return
    raise TimeoutError(command)


def _end_jobs() -> None:
    subprocess.run(["scancel", "--user=root"], check=False)


def _restore(previous: str | None) -> None:
    if previous is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = previous
