"""The modelling code of neuronx-distributed is fetched as it was released."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading

import pytest

import fetch_nxd_model
from common import program


def fetch(*args: object) -> int:
    return program.main(fetch_nxd_model.run, fetch_nxd_model.flags(), [str(arg) for arg in args])


@pytest.fixture
def release(monkeypatch) -> bytes:
    """The content of release 2.29, as far as the program knows."""
    content = b"class LlamaForCausalLM: ...\n"
    known = fetch_nxd_model.Release("0" * 40, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(fetch_nxd_model.RELEASES, "2.29", known)
    return content


def test_modelling_code_is_downloaded_at_the_commit(release, tmp_path, monkeypatch):
    place = tmp_path / "site" / ("0" * 40) / fetch_nxd_model.INSIDE
    place.parent.mkdir(parents=True)
    place.write_bytes(release)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(fetch_nxd_model, "SITE", f"http://127.0.0.1:{server.server_port}")
        assert fetch("--release", "2.29", "--output", tmp_path / "out") == 0
        server.shutdown()
    assert (tmp_path / "out" / fetch_nxd_model.NAME).read_bytes() == release
    assert json.loads((tmp_path / "out" / "source.json").read_text())["commit"] == "0" * 40


def test_without_network_the_user_is_told_to_name_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch_nxd_model, "SITE", "http://127.0.0.1:9")
    assert fetch("--release", "2.29", "--output", tmp_path / "out") == 2
    assert "name a checkout with --folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_changed_modelling_code_is_refused(release, tmp_path, capsys):
    (tmp_path / fetch_nxd_model.NAME).write_bytes(release + b"import os\n")
    assert fetch("--release", "2.29", "--folder", tmp_path, "--output", tmp_path / "out") == 2
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
