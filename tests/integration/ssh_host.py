"""A real sshd on loopback, and a home folder whose ssh_config knows it, with host keys checked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

_SERVER = """
Port {port}
ListenAddress {address}
HostKey "{folder}/hostkey"
PidFile "{folder}/sshd.pid"
AuthorizedKeysFile "{folder}/id_ed25519.pub"
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
Subsystem sftp internal-sftp
"""
_CLIENT = """
Host {name}
  HostName {address}
  Port {port}
  IdentityFile "{folder}/id_ed25519"
  IdentitiesOnly yes
  UserKnownHostsFile "{folder}/known_hosts"
"""


@dataclass
class Host:
    """A running sshd: `name` in the ssh_config of `home`; `folder` is its own."""

    name: str
    port: int
    folder: Path
    home: Path
    server: subprocess.Popen

    @property
    def target(self) -> list[str]:
        """Overrides that choose it, in a folder with a blank and a quote."""
        return ["target=ssh", f"target.host={quoted(self.name)}", f"target.folder={quoted(self.root)}"]

    @property
    def root(self) -> Path:
        return self.folder / "it's here"

    def sessions(self) -> list[int]:
        """The server's processes for open connections."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def cut(self) -> None:
        """End every connection, as a broken network does."""
        for pid in self.sessions():
            with suppress(ProcessLookupError):  # it may end by itself
                os.kill(pid, signal.SIGKILL)


def quoted(value: object) -> str:
    """A value as Hydra's grammar takes it between double quotes."""
    return '"' + str(value).replace('"', '\\"') + '"'


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_port() -> int:
    return free_ports(1)[0]


@contextmanager
def ssh_host(
    folder: Path, home: Path, name: str = "trn-a", port: int | None = None, environment: str = "", shell: str = "",
    address: str = "127.0.0.1",
) -> Iterator[Host]:  # fmt: skip
    """Start sshd and let the ssh_config in `home` know it by `name`; sessions there have `environment`, VAR=VALUE.

    A `shell` is what starts the login shell: it finds in SSH_ORIGINAL_COMMAND what sshd would give to that with -c.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root's sshd separates its privileges
    for key in ("hostkey", "id_ed25519"):
        if not (folder / key).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    algorithm, key = (folder / "hostkey.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[{address}]:{port} {algorithm} {key}\n")
    more = f"SetEnv {environment}\n" if environment else ""
    more += f"ForceCommand {shell}\n" if shell else ""
    (folder / "sshd_config").write_text(_SERVER.format(port=port, folder=folder, address=address) + more)
    config = home / ".ssh" / "config"
    config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with config.open("a") as stream:
        stream.write(_CLIENT.format(name=name, port=port, folder=folder, address=address))
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.PIPE, text=True)
    assert server.stderr
    for line in server.stderr:
        if "Server listening" in line:
            break
    host = Host(name, port, folder, home, server)
    try:
        yield host
    finally:
        host.cut()
        server.kill()
        server.wait()
