"""A port of this machine that leads to a port of a pod."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from runner.errors import RecipeError
from runner.targets.kubernetes.cluster import Cluster, ClusterLost, Missing


@contextmanager
def forwarding(cluster: Cluster, pod: str, there: int, here: int) -> Iterator[None]:
    """Have the port `here` of this machine, on loopback alone, lead to the port `there` of a pod."""
    try:
        listener = socket.create_server(("127.0.0.1", here))
    except OSError as error:
        raise RecipeError(f"target.forward: {here}: {error.strerror}; name another port of this machine") from error
    with listener:
        threading.Thread(target=_serve, args=(listener, cluster, pod, there), daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts


def _serve(listener: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_join, args=(near, cluster, pod, port), daemon=True).start()


def _join(near: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    """Pass on what comes from either side, until one ends; a pod that cannot be reached ends the near side."""
    with near, suppress(ClusterLost, Missing, RecipeError), closing(cluster.port(pod, port)) as far:
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
