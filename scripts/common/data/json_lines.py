"""Writing JSON with one value a line, so that every reader finds the same lines and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Other programs end a line there (Python's str.splitlines too), or cannot write it as UTF-8: halves of surrogate pairs.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def line(value: Any) -> str:
    """The value as readable JSON with its line end. Raises ValueError for NaN, which JSON does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def write(path: Path, values: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(map(line, values))
