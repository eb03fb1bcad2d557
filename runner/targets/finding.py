"""What doctor says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line: `level` is ok, warning or error; `todo` says what to do, and is empty where nothing is."""

    level: str
    about: str
    says: str
    todo: str = ""
