"""A run whose server is at a port of this machine; the server itself is a few lines of http.server."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from http_answers import Answers
from records import a_run

from runner.execute import files
from runner.execute.run_folder import LOCK
from runner.record.runs import Run


@contextmanager
def serving(folder: Path, port: int, *overrides: str, ready: bool = True, **names: str) -> Iterator[Run]:
    """A run in folder/runs whose executor is alive and whose server, ready or not, is at `port`."""
    key = f"serve-{port}"
    run = a_run(folder, "serve.mode=foreground", *overrides, stage="serve", key=key)
    [step] = run.plan["steps"]
    argv = [sys.executable, "serve.py", "--port", str(port)]
    (run.folder / "plan.json").write_text(json.dumps({**run.plan, "steps": [{**step, "argv": argv}], **names}))
    began = time.time()
    events: list[dict] = [
        {"event": "run", "state": "started", "time": began},
        {"event": "step", "stage": "serve", "state": "begun", "time": began},
    ]
    if ready:
        url = f"http://127.0.0.1:{port}/v1"
        events.append({"event": "serving", "stage": "serve", "url": url, "models": ["base", "sql"], "time": began + 5})
    (run.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with (run.folder / LOCK).open("wb") as lock:
        files.lock(lock)
        yield Run(run.folder)


class ManyModels(ThreadingHTTPServer):
    """Streams "SELECT " and the name of the model as the answer; `received` are the bodies.

    After the first piece of an answer to a question with `wait` in it, it waits for `released`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Streaming)
        self.received: list[dict] = []
        self.released = threading.Event()


class _Streaming(Answers, BaseHTTPRequestHandler):
    server: ManyModels

    def do_GET(self) -> None:
        self.answer(200, b'{"data": [{"id": "base"}, {"id": "sql"}]}')

    def do_POST(self) -> None:
        body = self.read_json()
        self.server.received.append(body)
        self.send_response(200)
        self.end_headers()
        for number, (text, reason) in enumerate((("SELECT ", None), (f"'{body['model']}'", "stop"))):
            content = {"delta": {"content": text}} if "messages" in body else {"text": text}
            self.wfile.write(f"data: {json.dumps({'choices': [{**content, 'finish_reason': reason}]})}\n\n".encode())
            if number == 0 and "wait" in json.dumps(body):
                self.server.released.wait(60)
        self.wfile.write(b"data: [DONE]\n\n")


@contextmanager
def many_models() -> Iterator[ManyModels]:
    """A server of the models base and sql."""
    with ManyModels() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()
