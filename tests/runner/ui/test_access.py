"""Only the browser that has the token, on a page of this server, gets anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runner.ui.served import Browser, served


def test_without_the_token_there_is_nothing_to_see(tmp_path: Path) -> None:
    with served(tmp_path) as stranger:
        answers = [stranger.get(path) for path in ("/", "/nothing", "/?token=guess", "/?token=%C3%A9")]
        assert [answer.status for answer in answers] == [403] * 4
        assert "open the address that runner ui printed" in answers[0].text
        assert stranger.get("/static/ui.css").status == 200  # so that this can be read well
        assert all("Set-Cookie" not in answer.headers for answer in answers)


def test_the_token_becomes_a_cookie_and_leaves_the_address(tmp_path: Path) -> None:
    with served(tmp_path) as stranger:
        answer = stranger.get(stranger.server.url.removeprefix(stranger.origin))
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        assert answer.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
        assert stranger.sign_in().get("/").status == 200


def test_a_redirect_never_leaves_the_server(tmp_path: Path) -> None:
    with served(tmp_path) as stranger:
        token = stranger.server.access.token
        assert stranger.get(f"//example.com/?token={token}").headers["Location"] == "/example.com/"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example:80", ""])
def test_a_foreign_name_for_this_machine_is_refused(browser: Browser, host: str) -> None:
    assert browser.get("/", Host=host or " ").status == 403


def test_a_tunnel_may_begin_at_another_port(browser: Browser) -> None:
    assert browser.get("/", Host="localhost:9999").status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", ""])
def test_another_page_cannot_post(browser: Browser, origin: str) -> None:
    answer = browser.post("/nothing", {}, Origin=origin)
    assert (answer.status, answer.json()) == (403, {"error": "this request comes from another page"})


def test_another_page_cannot_read_either(browser: Browser) -> None:
    assert browser.get("/", Origin="http://127.0.0.1:1").status == 403


def test_two_servers_do_not_take_each_others_cookie(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as other:
        other.sign_in()
        both = f"{browser.cookie}; {other.cookie}"
        assert Browser(browser.server, both).get("/").status == Browser(other.server, both).get("/").status == 200
        assert Browser(browser.server, other.cookie).get("/").status == 403
