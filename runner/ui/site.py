"""What all pages share while the server runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """The folder of the run records that the pages show."""

    folder: Path
