"""A stand-in for the Kubernetes API: it keeps objects as they are sent, and answers the calls that the runner makes.

What a controller or a kubelet would do, a test does: it puts pods and their logs there, and ends Jobs. Only the small
pods that copy files run by themselves: their commands run on this machine, where the volume is a folder.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from http_answers import Answers

from runner.targets.kubernetes.manifests import ACCESS

Object = dict[str, Any]
_PATH = re.compile(r"/apis?/(?:[a-z0-9.]+/)?v1/(?:namespaces/(?P<space>[^/]+)/)?(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?"
                   r"(?:/(?P<below>log|scale|exec))?$")  # fmt: skip
_WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455


@dataclass
class FakeCluster:
    """`objects` by kind (plural, as in paths) and name; `requests` as method, path, query and body.

    A value of `refuse` is the reason that an object of that kind cannot be made. `logs` are the answers to reading a
    pod's log, in order; the last one is repeated. A `cut` log ends without the HTTP chunk that says so.
    """

    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    logs: dict[str, list[tuple[bytes, bool]]] = field(default_factory=dict)
    on_made: dict[str, Any] = field(default_factory=dict)  # kind: a function of the object

    def put(self, kind: str, name: str, **content: Any) -> Object:
        made = {"metadata": {"name": name}, **content}
        self.objects.setdefault(kind, {})[name] = made
        return made

    def made(self) -> list[tuple[str, Any]]:
        """Kinds and bodies that were made, not only tried."""
        return [(path.rpartition("/")[2], body) for method, path, query, body in self.requests
                if method == "POST" and "dryRun" not in query and "reviews" not in path]  # fmt: skip


class _Api(Answers, BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"
    uids = itertools.count()

    def do_GET(self) -> None:
        found = self._found()
        if found["below"] == "log":
            return self._log(found["name"])
        if found["below"] == "exec":
            return self._exec()
        things = self.cluster.objects.get(found["kind"], {})
        if found["name"] is None:
            wanted = self.query.get("labelSelector", "")
            pairs = [pair.split("=") for pair in wanted.split(",") if pair]
            fitting = [one for one in things.values()
                       if all(one["metadata"].get("labels", {}).get(key) == value for key, value in pairs)]  # fmt: skip
            return self.answer_json(200, {"items": fitting})
        if found["name"] not in things:
            return self.answer_json(404, {"message": f'{found["kind"]} "{found["name"]}" not found'})
        return self.answer_json(200, things[found["name"]])

    def do_POST(self) -> None:
        kind, body = self._found()["kind"], self.body
        if kind == "selfsubjectaccessreviews":
            asked = body["spec"]["resourceAttributes"]
            return self.answer_json(
                201, {"spec": {}, "status": {"allowed": asked["resource"] not in self.cluster.denied}}
            )
        if kind in self.cluster.refuse:
            return self.answer_json(403, {"message": self.cluster.refuse[kind]})
        body["metadata"].update(uid=f"uid-{next(self.uids)}", creationTimestamp="2026-11-24T19:00:00Z")
        body.setdefault("status", {})
        if "dryRun" not in self.query:
            self.cluster.objects.setdefault(kind, {})[body["metadata"]["name"]] = body
            if kind == "pods":
                running = {"name": ACCESS, "restartCount": 0, "state": {"running": {}}}
                body["status"] = {"phase": "Running", "containerStatuses": [running]}
            self.cluster.on_made.get(kind, lambda made: None)(body)
        return self.answer_json(201, body)

    def do_DELETE(self) -> None:
        found = self._found()
        if found["name"]:
            self.cluster.objects.get(found["kind"], {}).pop(found["name"], None)
            for things in self.cluster.objects.values():  # as the garbage collector does
                for name in [name for name, one in things.items() if _owner(one) == found["name"]]:
                    del things[name]
        self.answer_json(200, {"status": "Success"})

    def _found(self) -> dict[str, Any]:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length)) if length else None
        self.cluster.requests.append((self.command, parts.path, self.query, self.body))
        found = _PATH.fullmatch(parts.path)
        assert found, parts.path
        return found.groupdict()

    def _log(self, pod: str) -> None:
        answers = self.cluster.logs[pod]
        content, cut = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n" + (b"" if cut else b"0\r\n\r\n"))
        self.close_connection = cut

    def _exec(self) -> None:
        """Run a command without input, as the WebSocket protocol v4.channel.k8s.io does."""
        command = [value for name, value in parse_qsl(urlsplit(self.path).query) if name == "command"]
        key = f"{self.headers['Sec-WebSocket-Key']}{_WEBSOCKET}".encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        status = {"status": "Failure" if done.returncode else "Success"}
        for channel, content in ((1, done.stdout), (2, done.stderr), (3, json.dumps(status).encode())):
            self.wfile.write(struct.pack("!BBQ", 0x82, 127, len(content) + 1) + bytes([channel]) + content)
        self.close_connection = True


def _owner(one: Object) -> str:
    return next((owner["name"] for owner in one["metadata"].get("ownerReferences", [])), "")


@contextmanager
def fake_cluster(kubeconfig: Path) -> Iterator[FakeCluster]:
    """A cluster in which everything is there, known to `kubeconfig` as the context `fake`."""
    cluster = FakeCluster()
    cluster.put("namespaces", "team")
    claim = {"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
    cluster.put("persistentvolumeclaims", "fsx-static-pvc", **claim)
    cluster.put("nodes", "trn1", status={"allocatable": {"aws.amazon.com/neuron": "16"}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (_Api,), {"cluster": cluster}))
    kubeconfig.write_text(json.dumps({
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": "kube-token"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": "team"}}],
    }))  # fmt: skip
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
