"""The files of the pages, and their frame."""

from __future__ import annotations

from runner.ui import pages
from tests.runner.ui.served import Browser


def test_styles_and_scripts_are_served_from_the_package(browser: Browser) -> None:
    style = browser.get("/static/ui.css")
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert "--adapter" in browser.get("/static/report.css").text
    assert browser.get("/static/report.js").headers["Content-Type"].startswith("text/javascript")


def test_no_other_file_is_served(browser: Browser) -> None:
    for path in ("../pages.py", "%2e%2e/pages.py", "layout.html", "/etc/passwd"):
        assert browser.get(f"/static/{path}").status == 404


def test_what_a_page_shows_is_escaped() -> None:
    text = pages.render("error.html", title="<b>", here="", navigation=(), message="<script>")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_every_page_of_the_navigation_exists(browser: Browser) -> None:
    for address, title in pages.NAVIGATION:
        page = browser.get(address)
        assert page.status == 200
        assert f'<a href="{address}" aria-current="page">{title}</a>' in page.text
