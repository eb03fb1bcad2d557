"""docs/support.md says what the checks of a plan accept."""

from __future__ import annotations

from tests.data.support.make import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run make golden"
