"""What the tests of runs elsewhere share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where the runner is called from."""
    work = tmp_path / "work"
    work.mkdir()
    return work
