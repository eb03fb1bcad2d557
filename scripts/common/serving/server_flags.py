"""Flags that every server program has, and their checks."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from common import program
from common.program import BadInput


def named_folder(text: str) -> tuple[str, Path]:
    """An argparse type: NAME=DIR with a folder that is there."""
    name, equals, folder = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=DIR")
    return name, program.existing_folder(folder)


def check_names(base: str, adapters: Sequence[tuple[str, Path]]) -> None:
    """BadInput when two models would be served under one name."""
    names = [base, *(name for name, _ in adapters)]
    if len(set(names)) < len(names):
        raise BadInput(f"--adapter: two models would be served under one name ({', '.join(names)})")


def bound_socket(host: str, port: int) -> socket.socket:
    """Take the port before the seconds of loading; connections are accepted only when the server is ready."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise BadInput(f"--port {port}: cannot listen on {host}: {error}; end its server or choose another") from None
    return listener


def reachable(host: str) -> str:
    """Where a server that listens on all addresses can be asked: on a node of a cluster by the node's name."""
    node = os.environ.get("RUNNER_NODE_NAME")
    return {"0.0.0.0": node or "127.0.0.1", "::": node or "::1"}.get(host, host)


def check_port(host: str, port: int) -> None:
    """BadInput when the port is taken: another server there would be asked in place of ours."""
    bound_socket(host, port).close()
