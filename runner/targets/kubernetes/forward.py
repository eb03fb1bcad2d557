"""Forwards a port of this machine to a port of a pod."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from runner.errors import RecipeError
from runner.targets.kubernetes.cluster import Cluster, ClusterLost, Missing


@contextmanager
def forwarding(cluster: Cluster, pod: str, remote_port: int, local_port: int) -> Iterator[None]:
    """Forward `local_port` of this machine (on loopback only) to `remote_port` of a pod. Raises RecipeError."""
    try:
        listener = socket.create_server(("127.0.0.1", local_port))
    except OSError as error:
        raise RecipeError(f"target.forward: {local_port}: {error.strerror}; try another port") from error
    with listener:
        threading.Thread(target=_serve, args=(listener, cluster, pod, remote_port), daemon=True).start()
        try:
            yield
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts


def _serve(listener: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    with suppress(OSError):
        while True:
            local, _ = listener.accept()
            threading.Thread(target=_join, args=(local, cluster, pod, port), daemon=True).start()


def _join(local: socket.socket, cluster: Cluster, pod: str, port: int) -> None:
    """Copy data in both directions until one side closes; if the pod cannot be reached, close the local side."""
    with local, suppress(ClusterLost, Missing, RecipeError), closing(cluster.port(pod, port)) as remote:
        back = threading.Thread(target=_copy, args=(remote, local), daemon=True)
        back.start()
        _copy(local, remote)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
