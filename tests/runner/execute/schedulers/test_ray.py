"""Requests to Ray's Job API, answered by a server on loopback; the cluster itself is in tests/integration."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner.execute.schedulers import ray
from runner.execute.schedulers.base import Refused, Unreachable


class Head(BaseHTTPRequestHandler):
    """Answers with the server's `answers` in turn: (status, text)."""

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, method: str, body: Any) -> None:
        self.server.requests.append((method, self.path, body))  # type: ignore[attr-defined]
        status, text = self.server.answers.pop(0)  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def head() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), Head) as server:
        server.requests, server.answers = [], []  # type: ignore[attr-defined]
        server.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def plan(address: str) -> dict[str, Any]:
    job = {"address": address, "python": "python3", "code": "/code", "cpus": 2, "resources": {"neuron_cores": 8}}
    return {"recipe": "sql", "job": job}


def test_a_run_is_a_job_with_its_resources(head: Any) -> None:
    head.answers = [(200, '{"submission_id": "raysubmit_1"}')]
    assert ray.Scheduler().submit({Path("runs/a b"): plan(head.address)}) == [[f"{head.address}#raysubmit_1"]]
    [(method, path, body)] = head.requests
    assert (method, path) == ("POST", "/api/jobs/")
    assert (body["entrypoint_num_cpus"], body["entrypoint_resources"]) == (2, {"neuron_cores": 8})
    assert "exec python3 -m runner.execute 'runs/a b/plan.json' --run 'runs/a b'" in body["entrypoint"]


def test_a_refused_run_ends_those_before_it(head: Any) -> None:
    head.answers = [(200, '{"submission_id": "one"}'), (500, "trace\nno such resource"), (200, "{}")]
    with pytest.raises(Refused, match=f"target.ray.address: {head.address}: no such resource"):
        ray.Scheduler().submit({Path("a"): plan(head.address), Path("b"): plan(head.address)})
    assert head.requests[-1][:2] == ("POST", "/api/jobs/one/stop")


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((200, '{"status": "PENDING", "message": "no CPU"}'), "waiting: no CPU"),
        ((200, '{"status": "RUNNING"}'), "running"),
        ((200, '{"status": "FAILED"}'), "gone"),
        ((404, "no such job"), "gone"),
        ((200, '{"status": "FAILED", "message": "set the variable RAY_JOB_START_TIMEOUT_SECONDS."}'), "gave up"),
    ],
)
def test_states(head: Any, answer: tuple[int, str], state: str) -> None:
    head.answers = [answer]
    assert ray.Scheduler().state([f"{head.address}#one"]) == state


def test_a_head_that_does_not_answer_tells_nothing() -> None:
    with pytest.raises(Unreachable):
        ray.Scheduler().state(["http://127.0.0.1:9#one"])
    assert ray.Scheduler().reason(["http://127.0.0.1:9#one"]) == ""
