"""Commands on another machine over SSH: any login shell, checked host keys, lost connections noticed.

Fabric reads the user's ssh_config (alias, user, port, keys, agent, ProxyJump) and connects. Two things
are added here: Fabric accepts any host key, and it waits forever when the connection is cut.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko
from fabric import Connection
from paramiko.ssh_exception import NoValidConnectionsError

from runner.errors import RecipeError
from runner.targets.transport.base import CommandFailed, ConnectionLost, last_line

_CONNECT = 15.0  # seconds
_PATIENCE = 60.0  # seconds for the other machine to read
_CHUNK = 2**16
_MARK = "trainium-recipes begins"  # on a line of its own, before what a command prints
# Between single quotes, these characters mean the same to sh, csh and fish.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 /._-=:,")
_HOST = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<address>[^]]+)]|(?P<name>[^:]+))(?::(?P<port>\d+))?")
_START = r'printf "\n%s\n" "$0"; printf "\n%s\n" "$0" >&2; eval "exec $(printf %b "$1")"'


class SSHTransport:
    """A connection to `host` (an alias of ssh_config, or [user@]name[:port]), made when it is first needed."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._connection: Connection | None = None

    def start(self, command: Sequence[str]) -> SSHChannel:
        """Start a command. Raises ConnectionLost, RecipeError."""
        try:
            transport = self._open().transport
            assert transport
            channel = transport.open_session(timeout=_CONNECT)
            channel.exec_command(_for_any_shell(command))
        except (paramiko.SSHException, OSError, EOFError) as error:
            self.close()
            raise ConnectionLost(_reason(error)) from error
        return SSHChannel(channel)

    @contextmanager
    def forwarding(self, local_port: int, port: int, host: str = "127.0.0.1") -> Iterator[None]:
        """Forward a port of this machine to a port of the other one, or of a host that the other one reaches."""
        with self._open().forward_local(local_port, port, remote_host=host):
            yield

    def close(self) -> None:
        """Close the connection; the next command makes a new one."""
        if self._connection:
            with suppress(Exception):  # it may be broken in any way
                self._connection.close()
        self._connection = None

    def _open(self) -> Connection:
        if self._connection is None:
            connection = _connection_to(self.host)
            _check_host_keys(connection)
            _connect(connection, self.host)
            self._connection = connection
        return self._connection


class SSHChannel:
    """A command on the other machine, as a `runner.targets.transport.base.Channel`."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._before: bytes | None = b""  # what the login shell prints; None from the mark on

    def write(self, data: bytes) -> None:
        self._channel.settimeout(_PATIENCE)
        try:
            self._channel.sendall(data)
        except TimeoutError as error:
            raise ConnectionLost(_reason(error)) from error
        except OSError as error:
            raise BrokenPipeError from error

    def read(self, patience: float) -> bytes:
        self._channel.settimeout(patience)
        while self._before is not None:
            before, mark, output = (self._before + self._receive()).partition(f"\n{_MARK}\n".encode())
            self._before = None if mark else before
            if output:
                return output
        return self._receive()

    def close(self) -> None:
        with suppress(Exception):  # the connection may be broken in any way
            self._channel.close()

    def _receive(self) -> bytes:
        try:
            output = self._channel.recv(_CHUNK)
            if not output:
                raise self._failure()
            return output
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLost(_reason(error)) from error

    def _failure(self) -> Exception:
        """Why there is no more output."""
        status = self._channel.recv_exit_status()
        if status == -1:
            return ConnectionLost("the connection was closed")
        errors = b"".join(iter(lambda: self._channel.recv_stderr(_CHUNK), b""))
        if self._before is not None:
            said = last_line(errors) or last_line(self._before)
            return CommandFailed(1, f"the login shell did not run the command: {said}")
        if status:
            return CommandFailed(status, last_line(errors.rpartition(f"\n{_MARK}\n".encode())[2]))
        return ConnectionLost("it ended before it had answered")


def split_folder(text: str) -> tuple[str, str | None]:
    """The host and the folder of HOST or HOST:FOLDER; the folder is None where there is none.

    >>> split_folder("me@[::1]:2222:/fsx/me")
    ('me@[::1]:2222', '/fsx/me')
    """
    host = _HOST.match(text)
    rest = text[host.end() :] if host else ""
    return (text[: -len(rest)], rest[1:] or None) if rest.startswith(":") else (text, None)


def _connection_to(host: str) -> Connection:
    """A connection to [user@]name[:port]; an IPv6 address with a port is written in brackets, as [::1]:22."""
    parts = _HOST.fullmatch(host)
    if not parts:  # such as an IPv6 address without brackets
        return Connection(host, connect_timeout=int(_CONNECT))
    port = int(parts["port"]) if parts["port"] else None
    return Connection(parts["address"] or parts["name"], parts["user"], port, connect_timeout=int(_CONNECT))


def _for_any_shell(command: Sequence[str]) -> str:
    """A line with which any login shell runs a command; the mark separates its output from what the shell prints."""
    encoded = "".join(chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in shlex.join(command).encode())
    return f"exec sh -c '{_START}' '{_MARK}' '{encoded}'"


def _check_host_keys(connection: Connection) -> None:
    """Accept only keys of known_hosts, for jump hosts too."""
    client: Any = connection.client
    for file in _known_hosts(connection):
        client.load_system_host_keys(str(file))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    if isinstance(connection.gateway, Connection):
        _check_host_keys(connection.gateway)


def _known_hosts(connection: Connection) -> Iterator[Path]:
    settings: Any = connection.ssh_config
    named = settings.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    # paramiko removes quotes, so one name with blanks looks like several names
    for name in [named, *named.split(), "/etc/ssh/ssh_known_hosts"]:
        if Path(name).expanduser().is_file():
            yield Path(name).expanduser()


def _connect(connection: Connection, host: str) -> None:
    place = f"{connection.host}" if connection.port == 22 else f"[{connection.host}]:{connection.port}"
    scan = f"ssh-keyscan -p {connection.port} {connection.host} >> ~/.ssh/known_hosts"
    try:
        connection.open()
    except paramiko.BadHostKeyException as error:
        raise RecipeError(
            f"target.host: {host}: its host key {error.key.fingerprint} differs from known_hosts: another "
            f"machine may be answering. If the key was changed on purpose: ssh-keygen -R '{place}' && {scan}"
        ) from error
    except paramiko.AuthenticationException as error:
        raise RecipeError(
            f"target.host: {host}: login as {connection.user} refused; `ssh {host}` must work without a password first"
        ) from error
    except (socket.gaierror, NoValidConnectionsError, TimeoutError, OSError, EOFError) as error:
        raise ConnectionLost(_reason(error)) from error
    except paramiko.SSHException as error:
        if "not found in known_hosts" in str(error):
            raise RecipeError(
                f"target.host: {host}: its host key is unknown; compare its fingerprint with the machine's own, "
                f"then add it: {scan}"
            ) from error
        raise ConnectionLost(_reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
