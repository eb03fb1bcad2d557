"""The real huggingface_hub client against a small hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"
SCRIPTS = Path(__file__).parents[4] / "scripts"
REFUSED = "the hub refuses access ({}): check the name, and that HF_TOKEN may read http"
FILES = {
    "models/me/model": {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"},
    "models/me/files-403": {"config.json": b"{}"},
    "datasets/me/one": {"my-set.jsonl": b'{"q": 1}\n', "README.md": b"a set"},
    "datasets/me/split": {
        "data/train-0.parquet": b"a", "data/train-1.parquet": b"b", "data/test-0.parquet": b"c", "data/train.csv": b"d",
    },
    "datasets/me/configurations": {"main/train.jsonl": b"a", "other/train.jsonl": b"b"},
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub's HTTP interface that a download uses."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        kind, _, rest = path.removeprefix("api/").partition("/")
        if path.startswith("api/"):
            owner, name, *action = rest.split("/")
            self.describe(f"{kind}/{owner}/{name}", action)
            return
        repository, _, resolved = path.partition("/resolve/")
        kind = "" if repository.startswith("datasets/") else "models/"
        if repository == "me/files-403":
            self.answer(403, {})
        else:
            self.send_file(FILES[kind + repository][resolved.partition("/")[2]])

    def do_HEAD(self) -> None:
        self.do_GET()

    def describe(self, repository: str, action: list[str]) -> None:
        if "/answers-" in repository:
            bad_token = "Invalid credentials in Authorization header"
            self.answer(int(repository[-3:]), {}, message=bad_token if "token" in repository else "")
        elif repository not in FILES:
            gated = repository == "models/me/gated"
            self.answer(403 if gated else 404, {}, error="GatedRepo" if gated else "RepoNotFound")
        elif action[1] not in ("main", SHA):
            self.answer(404, {}, error="RevisionNotFound")
        elif action[0] == "tree":
            sizes = {path: len(content) for path, content in FILES[repository].items()}
            self.answer(200, [{"type": "file", "path": p, "size": n, "oid": f"{n:040}"} for p, n in sizes.items()])
        else:
            siblings = [{"rfilename": path} for path in FILES[repository]]
            self.answer(200, {"id": repository, "sha": SHA, "siblings": siblings})

    def answer(self, status: int, value: object, error: str = "", message: str = "") -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Code", error)
        if message:
            self.send_header("X-Error-Message", message)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_file(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{content.hex()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def call(expression: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Evaluate an expression in a new process, since huggingface_hub reads its environment once."""
    code = f"import json, sys\nfrom common.data import hub\nsys.stdout.write(json.dumps({expression}, default=str))"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(SCRIPTS)}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def found(result: subprocess.CompletedProcess[str]) -> object:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_download_takes_what_matches_and_tells_progress(hub, tmp_path):
    result = call('hub.download("me/model", None, ["*.json", "*.safetensors"])', hub, tmp_path)
    folder = Path(str(found(result)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }
    assert result.stderr.splitlines()[-1] == "2/2 file"


def test_a_model_in_the_cache_needs_no_network(hub, tmp_path):
    expression = 'hub.download("me/model", None, ["config.json"])'
    folder = found(call(expression, hub, tmp_path))
    assert found(call(expression, "http://127.0.0.1:9", tmp_path)) == folder


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('hub.dataset_files("me/one", None, "train")', ["my-set.jsonl"]),
        ('hub.dataset_files("me/split", None, "train")', ["train-0.parquet", "train-1.parquet"]),
        ('hub.dataset_files("me/split", "main", "test")', ["test-0.parquet"]),
        ('hub.dataset_files("me/configurations", None, "train", "other")', ["train.jsonl"]),
    ],
)
def test_files_of_a_split(hub, tmp_path, expression, names):
    paths = found(call(expression, hub, tmp_path))
    assert isinstance(paths, list)
    assert [Path(path).name for path in paths] == names


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('hub.download("me/absent", None, ["*"])', "--hub me/absent: no such model, or private: check http"),
        ('hub.download("me/gated", None, ["*"])', "--hub me/gated: gated: accept its terms at http"),
        ('hub.download("me/model", "v9", ["*"])', "--hub me/model: no revision v9: see http"),
        ('hub.download("a/b/c", None, ["*"])', "--hub a/b/c: not a name on the hub"),
        ('hub.download("me/answers-401", None, ["*"])', REFUSED.format(401)),
        ('hub.download("me/answers-token-401", None, ["*"])', REFUSED.format(401)),
        ('hub.download("me/answers-403", None, ["*"])', REFUSED.format(403)),
        ('hub.download("me/files-403", None, ["*"])', REFUSED.format(403)),
        ('hub.download("me/answers-503", None, ["*"])', "--hub me/answers-503: the hub answered 503: try again later"),
        ('hub.dataset_files("me/answers-403", None, "train")', REFUSED.format(403)),
        ('hub.dataset_files("me/one", None, "test")', "--hub me/one: no file of the split 'test'"),
        ('hub.dataset_files("me/configurations", None, "train")', "several configurations: main, other; name"),
        ('hub.dataset_files("me/configurations", None, "train", "third")', "of the configuration 'third' as"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(hub, tmp_path, expression, message):
    last = call(expression, hub, tmp_path).stderr.splitlines()[-1]
    assert last.startswith("common.program.BadInput: ")
    assert message in last


def test_no_network(tmp_path):
    last = call('hub.download("me/model", None, ["*"])', "http://127.0.0.1:9", tmp_path).stderr.splitlines()[-1]
    assert "me/model is unreachable and not in the cache: check the network, or use a local copy" in last
