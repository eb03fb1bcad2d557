"""A browser with access to the pages of the runs in tmp_path/runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.ui.served import Browser, served


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with served(tmp_path / "runs") as stranger:
        yield stranger.sign_in()
