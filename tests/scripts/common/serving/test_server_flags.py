from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest

from common.program import BadInput
from common.serving import server_flags


def test_a_named_folder(tmp_path: Path) -> None:
    assert server_flags.named_folder(f"sql={tmp_path}") == ("sql", tmp_path)
    for text in ("sql", "=x"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=DIR"):
            server_flags.named_folder(text)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    server_flags.check_names("base", [("sql", tmp_path)])
    with pytest.raises(BadInput, match="the same name"):
        server_flags.check_names("sql", [("sql", tmp_path)])


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BadInput, match=f"--port {port}: cannot listen"):
            server_flags.check_port("127.0.0.1", port)


@pytest.mark.parametrize(("node", "reachable"), [(None, "127.0.0.1"), ("node-3", "node-3")])
def test_a_server_on_all_addresses_is_reached_by_its_node(
    monkeypatch: pytest.MonkeyPatch, node: str | None, reachable: str
) -> None:
    monkeypatch.delenv("RUNNER_NODE_NAME", raising=False)
    if node:
        monkeypatch.setenv("RUNNER_NODE_NAME", node)
    assert server_flags.reachable("0.0.0.0") == reachable
    assert server_flags.reachable("10.0.0.1") == "10.0.0.1"
