"""The playground in a real browser, with the keyboard alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from chromium import Page

from runner.ui.server import Server
from runner.ui.site import Site
from tests.runner.serving_run import ManyModels, many_models, serving

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium: apt-get install chromium")

CHAT = (
    "dataset.template.turns=[messages]", "dataset.template.sections=[]", "dataset.template.chat=true",
    "dataset.template.system=Be brief.", "evaluate.metrics=[exact_match]",
)  # fmt: skip
COMPARED = "document.querySelector('#said').textContent.startsWith('Underlined')"


@pytest.fixture
def models() -> Iterator[ManyModels]:
    with many_models() as server:
        yield server


@pytest.fixture
def playground(tmp_path: Path, models: ManyModels, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The playground of the models, with the cursor in its first field."""
    overrides = getattr(request, "param", ())
    with serving(tmp_path, models.server_port, *overrides), Server(Site(tmp_path / "runs")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with chromium.opened(tmp_path) as page:
            page.open(server.url)
            page.open(server.url.replace("/?", "/playground?"))
            page.run("document.querySelector('textarea').focus()")
            yield page
            assert [url for url in page.requests if not url.startswith(server.url.partition("?")[0])] == []
            server.shutdown()


def test_the_answers_stand_side_by_side_with_what_differs_and_what_the_sql_finds(playground: Page) -> None:
    playground.type("CREATE TABLE t (a INTEGER)")
    playground.press("Enter", 13, control=True)
    playground.wait(COMPARED)
    assert playground.run("[...document.querySelectorAll('.exchange pre')].map((one) => one.textContent)") == [
        "SELECT 'base'", "SELECT 'sql'",
    ]  # fmt: skip
    assert playground.run("[...document.querySelectorAll('mark')].map((one) => one.textContent)") == ["sql"]
    assert playground.run("[...document.querySelectorAll('.results td')].map((one) => one.textContent)")[0] == "base"
    for width in (390, 1280):
        for dark in (False, True):
            playground.look(width, dark=dark)
            assert playground.run("document.documentElement.scrollWidth") <= width
    assert playground.console == []


@pytest.mark.parametrize("playground", [CHAT], indirect=True)
def test_a_chat_goes_on_and_an_answer_can_be_stopped(playground: Page, models: ManyModels) -> None:
    for number, text in enumerate(("One?", "Two?", "Three?"), start=1):
        playground.type(text)
        playground.press("Enter", 13, control=True)
        playground.wait(f"document.querySelectorAll('.exchange').length === {number} && {COMPARED}")
    asked = {body["model"]: [turn["content"] for turn in body["messages"]] for body in models.received}
    assert asked["sql"] == ["Be brief.", "One?", "SELECT 'sql'", "Two?", "SELECT 'sql'", "Three?"]
    playground.type("wait")
    playground.press("Enter", 13, control=True)
    playground.wait("document.querySelector('.exchange .waiting')?.textContent === 'SELECT '")
    playground.run("document.querySelector('#stop').click()")
    playground.wait("document.querySelector('#said').textContent === 'Stopped.'")
    assert playground.console == []
