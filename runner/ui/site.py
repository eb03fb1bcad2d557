"""What all pages share while the server runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runner.ui.index import Index


@dataclass(frozen=True)
class Site:
    """The folder of the run records that the pages show."""

    folder: Path

    @cached_property
    def index(self) -> Index:
        """What is known of the runs in it."""
        return Index(self.folder)
