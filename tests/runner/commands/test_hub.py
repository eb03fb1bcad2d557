"""The real huggingface_hub client uploads a folder to a small hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from http_answers import Answers

from runner.paths import ROOT

PROGRAM = """
import sys
from pathlib import Path
from runner.commands.hub import Hub
from runner.errors import RecipeError
try:
    print(Hub(sys.argv[1]).push(Path(sys.argv[2])))
except RecipeError as error:
    sys.exit(str(error))
"""


class _Hub(Answers, BaseHTTPRequestHandler):
    """The parts of the hub's HTTP interface that an upload of small files uses."""

    created: list[dict[str, Any]]
    files: dict[str, bytes]

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == "Bearer hf_good"
            self.answer_json(200 if known else 401, {"name": "me"} if known else {"error": "Invalid user token."})
        else:  # the repository as it is
            self.answer_json(200, {"id": "me/new", "sha": "0" * 40, "private": True, "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self.answer_json(200, {"url": f"http://{self.headers['Host']}/me/new", "name": "me/new", "id": "1"})
        elif self.path == "/api/validate-yaml":
            self.answer_json(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self.answer_json(200, {"files": files})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer_json(200, {"commitOid": "1" * 40, "commitUrl": f"http://{self.headers['Host']}/me/new/commit/1",
                              "success": True})  # fmt: skip


@pytest.fixture
def hub() -> Iterator[tuple[str, type[_Hub]]]:
    handler = type("Handler", (_Hub,), {"created": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def push(endpoint: str, folder: Path, token: str, name: str = "me/new") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder.parent / "home"), "HF_TOKEN": token,
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, name, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n# adapter\n")
    (folder / "adapter_config.json").write_text('{"r": 4}')
    return folder


def test_a_folder_is_uploaded_to_a_private_repository(hub: tuple[str, type[_Hub]], folder: Path) -> None:
    endpoint, received = hub
    done = push(endpoint, folder, "hf_good")
    assert (done.returncode, done.stdout.strip()) == (0, f"{endpoint}/me/new"), done.stderr
    [created] = received.created
    assert created.get("private") is True or created.get("visibility") == "private", created
    assert received.files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_token_that_the_hub_refuses_is_told_before_anything_is_sent(hub, folder: Path) -> None:
    endpoint, received = hub
    done = push(endpoint, folder, "hf_wrong")
    assert done.returncode == 1 and "--push me/new: " in done.stderr and "set HF_TOKEN" in done.stderr
    assert "hf_wrong" not in done.stderr and "Traceback" not in done.stderr
    assert (received.created, received.files) == ([], {})


def test_a_name_without_an_owner_is_refused(folder: Path) -> None:
    done = push("http://127.0.0.1:1", folder, "hf_good", "new")
    assert "--push: new: a name on the hub is OWNER/NAME" in done.stderr
