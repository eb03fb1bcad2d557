"""An S3 server on loopback: moto's, in an environment of its own. MOTO names the `moto_server` command."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssh_host import free_port

ROOT = Path(__file__).resolve().parents[2]
MOTO = os.environ.get("MOTO") or shutil.which("moto_server") or str(ROOT / ".venv-s3" / "bin" / "moto_server")
SECRET = "canary-of-s3"


def missing() -> str:
    """Why there can be no server here; empty if there can."""
    has_both = Path(MOTO).exists() and importlib.util.find_spec("s3fs")
    return "" if has_both else "no S3 server, or no s3fs: make setup-s3"


@contextmanager
def s3_server(log: Path) -> Iterator[dict[str, str]]:
    """Start it with a bucket `bucket`, and end it; the environment variables that reach it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output)
    try:
        while not _makes_bucket(address):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    finally:
        process.terminate()
        process.wait()


def _makes_bucket(address: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=10).close()
    except urllib.error.HTTPError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def counted(address: str, limit: int, act: Callable[[], None]) -> Iterator[str]:
    """An address through which the server is reached, and which calls `act` once `limit` bytes have passed."""
    host, _, port = address.removeprefix("http://").partition(":")
    passed, counting = 0, threading.Lock()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        nonlocal passed
        with suppress(OSError):
            while content := source.recv(2**16):
                with counting:
                    due = passed < limit <= passed + len(content)
                    passed += len(content)
                sink.sendall(content)
                if due:
                    act()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                here, there = listener.accept()[0], socket.create_connection((host, int(port)))
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
