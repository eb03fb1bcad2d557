"""What the server does for every page: headers, errors, answers that have not changed, streams."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import RecipeError
from runner.ui import web
from runner.ui.server import Server
from runner.ui.site import Site
from runner.ui.web import BadRequest, Request, Response
from tests.runner.ui.served import Browser, served


def test_nothing_is_loaded_from_elsewhere(browser: Browser) -> None:
    headers = browser.get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


def test_it_listens_on_this_machine_alone(tmp_path: Path) -> None:
    with Server(Site(tmp_path)) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_what_has_not_changed_is_not_sent_again(browser: Browser) -> None:
    first = browser.get("/")
    again = browser.get("/", If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert browser.get("/", If_None_Match='"another"').status == 200


def test_a_person_gets_a_page_and_a_script_json_of_what_is_missing(browser: Browser) -> None:
    page = browser.get("/nothing/<b>", Accept="text/html,*/*")
    assert page.status == 404 and "/nothing/&lt;b&gt;: no such page" in page.text
    assert browser.get("/nothing").json() == {"error": "/nothing: no such page"}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RecipeError("tp_sise: no such key"), 400, "tp_sise: no such key"),
        (BadRequest("no"), 400, "no"),
        (ZeroDivisionError("secret"), 500, "an error of runner ui; see its terminal"),
    ],
)
def test_an_error_is_told_in_one_line(tmp_path: Path, error: Exception, status: int, message: str) -> None:
    def fail(_: Request) -> Response:
        raise error

    with served(tmp_path, {("POST", "/fail"): fail}) as stranger:
        answer = stranger.sign_in().post("/fail")
    assert (answer.status, answer.json()) == (status, {"error": message})


def test_a_body_without_a_length_or_too_large_is_not_read(browser: Browser) -> None:
    for length in ("-1", "ten", str(2**30)):
        assert browser.ask("POST", "/nothing", b"", {"Origin": browser.origin, "Content-Length": length}).status == 400


def test_a_stream_arrives_part_by_part(tmp_path: Path) -> None:
    seen = threading.Event()

    def parts() -> Iterator[bytes]:
        yield b"first "
        assert seen.wait(20)
        yield b"second"

    routes = {("GET", "/stream"): lambda request: Response(parts(), "text/plain")}
    with served(tmp_path, routes) as stranger:
        stranger.sign_in()
        connection = http.client.HTTPConnection("127.0.0.1", stranger.server.server_port)
        connection.request("GET", "/stream", headers={"Cookie": stranger.cookie})
        response = connection.getresponse()
        assert response.read(6) == b"first "
        seen.set()
        assert response.read() == b"second"
        connection.close()


def test_a_post_gets_what_was_sent(tmp_path: Path) -> None:
    routes = {("POST", "/echo/*"): lambda request: web.as_json([request.rest, request.first("a"), request.json()])}
    with served(tmp_path, routes) as stranger:
        stranger.sign_in()
        assert stranger.post("/echo/some/run?a=1", {"x": 2}).json() == ["some/run", "1", {"x": 2}]
        assert stranger.post("/echo/run", [1]).json() == {"error": "the body is no JSON object"}
