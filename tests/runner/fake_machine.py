"""External commands and a hub as a Trainium machine has them: programs that print what the real ones print."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GOOD_TOKEN = "hf_good"


def command(path: Path, body: str) -> Path:
    """An executable Python script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}")
    path.chmod(0o755)
    return path


def devices(count: int, cores: int, memory: int, **fields: Any) -> list[dict[str, Any]]:
    """What `neuron-ls --json-output` lists, as in the Neuron LS User Guide: logical cores, HBM in bytes."""
    return [
        {
            "neuron_device": number, "bdf": f"{number:02x}:00.0", "cpu_affinity": "0-47,96-143", "numa_node": "0",
            "connected_to": [], "nc_count": cores, "logical_neuroncore_config": 2, "memory_size": memory,
            "neuroncore_ids": list(range(number * cores, (number + 1) * cores)), "neuron_processes": [], **fields,
        }
        for number in range(count)
    ]  # fmt: skip


def trn2() -> list[dict[str, Any]]:
    return devices(16, 4, 96 * 2**30)


def neuron_ls(folder: Path, content: Any, flag: str = "--json-output") -> Path:
    """A neuron-ls that knows one flag for JSON; returns the folder to put on the PATH."""
    command(
        folder / "neuron-ls",
        f"if sys.argv[1] != {flag!r}: sys.exit(f'unknown option {{sys.argv[1]}}')\nprint({json.dumps(content)!r})",
    )
    return folder


def python(path: Path, packages: dict[str, str]) -> Path:
    """The Python of an environment with these packages, whatever it is asked to run."""
    return command(path, f"print({json.dumps({'version': '3.10.12', 'packages': packages})!r})")


class _Hub(BaseHTTPRequestHandler):
    """whoami-v2 and auth-check. me/open may be read by anyone, me/gated and me/moved answer as their names say."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {GOOD_TOKEN}"
        if self.path == "/api/whoami-v2":
            self.answer(200 if known else 401, {"name": "me"} if known else {})
        elif self.path == "/api/models/me/open/auth-check":
            self.answer(200, {})
        elif self.path == "/api/models/me/gated/auth-check":
            self.answer(403, {}, {"X-Error-Code": "GatedRepo"})
        elif self.path == "/api/models/me/moved/auth-check":
            self.answer(307, {}, {"Location": f"http://{self.headers['Host']}/elsewhere"})
        elif self.path == "/elsewhere":
            raise AssertionError("a redirect was followed with the token")
        else:
            self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[str]:
    """A hub on this machine; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
