"""Flags that all server programs share, and their checks."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from common import program
from common.program import BadInput


def named_folder(text: str) -> tuple[str, Path]:
    """An argparse type: NAME=DIR with an existing folder."""
    name, equals, folder = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=DIR")
    return name, program.existing_folder(folder)


def check_names(base: str, adapters: Sequence[tuple[str, Path]]) -> None:
    """Raise BadInput if two models have the same name."""
    names = [base, *(name for name, _ in adapters)]
    if len(set(names)) < len(names):
        raise BadInput(f"--adapter: two models have the same name ({', '.join(names)}); rename one")


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the port, before the model is loaded; it does not listen yet. Raises BadInput if taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise BadInput(f"--port {port}: cannot listen on {host}: {error}; stop its server or use another") from None
    return listener


def reachable(host: str) -> str:
    """The address for clients of a server: for one that listens on all addresses, the node's name or localhost."""
    node = os.environ.get("RUNNER_NODE_NAME")
    return {"0.0.0.0": node or "127.0.0.1", "::": node or "::1"}.get(host, host)


def check_port(host: str, port: int) -> None:
    """Raise BadInput if the port is taken: requests would go to another server instead of ours."""
    bound_socket(host, port).close()
