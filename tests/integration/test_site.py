"""The site that `make docs` builds, opened as files in a real browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from chromium import Page

from runner.paths import ROOT

pytest.importorskip("furo", reason="make docs installs what builds the site")
pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium: apt-get install chromium")

FOUND = "document.querySelectorAll('#search-results li').length"


@pytest.fixture(scope="module")
def site() -> Path:
    subprocess.run([sys.executable, ROOT / "docs" / "site" / "build.py"], check=True)
    return ROOT / "build" / "docs" / "html"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser. In the end nothing was asked of the network, and no script complained."""
    with chromium.opened(tmp_path) as page:
        yield page
        assert page.console == []
        assert [address for address in page.requests if not address.startswith(("file:", "data:"))] == []


def test_no_page_is_wider_than_its_window(site: Path, page: Page) -> None:
    for file in sorted(site.glob("*.html")):
        for width, dark in ((390, True), (1280, False)):
            page.look(width, dark=dark)
            page.open(file.as_uri())
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), f"{file.name} at {width}"


def test_the_search_finds_pages_without_a_server(site: Path, page: Page) -> None:
    page.open(f"{(site / 'search.html').as_uri()}?q=slurm")
    page.wait("/finished|pages? matching/i.test(document.getElementById('search-results').innerText)")
    assert page.run(FOUND) > 5
