"""The servers that are running, by their records; the server itself is a few lines of http.server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from http_answers import Answers
from records import a_run

from runner.commands.serve import servers
from runner.errors import RecipeError
from tests.runner.serving_run import serving


@contextmanager
def a_server(status: int = 200) -> Iterator[tuple[int, list[dict]]]:
    """The port of a server on this machine that answers everything with `status`, and the bodies that it received."""
    bodies: list[dict] = []

    class Answer(Answers, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.read_json())
            self.answer(status, b"")

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, bodies
        server.shutdown()


def test_a_ready_server_is_listed_with_its_models_and_answers(tmp_path: Path) -> None:
    with a_server() as (port, bodies), serving(tmp_path, port) as run:
        [server] = servers.live(tmp_path / "runs")
        assert (server.run, server.port, server.models) == (run, port, ["base", "sql"])
        assert servers.health(server).startswith("answers, ")
        assert bodies == [{"model": "base", "prompt": "a", "max_tokens": 1, "temperature": 0}]
        assert servers.find(run.name, tmp_path / "runs") == server
        assert servers.last(tmp_path / "runs") == run


def test_a_server_that_answers_with_an_error_or_not_at_all_is_unhealthy(tmp_path: Path) -> None:
    with a_server(500) as (port, _), serving(tmp_path, port):
        [server] = servers.live(tmp_path / "runs")
        assert servers.health(server) == "answers with status 500"
    assert servers.health(server).startswith("no answer: ")


def test_a_server_that_is_starting_is_listed_but_cannot_be_asked(tmp_path: Path) -> None:
    with serving(tmp_path, 8000, ready=False) as run:
        [server] = servers.live(tmp_path / "runs")
        assert servers.health(server) == "starting"
        servers.check(run)
        with pytest.raises(RecipeError, match="no such server"):
            servers.find(run.name, tmp_path / "runs")


def test_a_name_that_matches_two_servers_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, 8000), serving(tmp_path, 8001), pytest.raises(RecipeError, match='"-" matches 2 servers'):
        servers.find("-", tmp_path / "runs")


def test_a_server_elsewhere_is_reached_through_the_forwarded_port(tmp_path: Path) -> None:
    remote = ["target=ssh", "target.host=me@there", "target.forward=9000"]
    with serving(tmp_path, 8000, *remote, where="there"):
        [server] = servers.live(tmp_path / "runs")
        assert servers.address(server) == ("127.0.0.1", 9000)
        assert "runner attach" in servers.health(server)


def test_a_run_that_is_not_serving_is_not_stopped_as_a_server(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(RecipeError, match=r"not serving \(yet\); `runner cancel"):
        servers.check(run)
    with pytest.raises(RecipeError, match="no servers are running"):
        servers.last(tmp_path / "runs")
