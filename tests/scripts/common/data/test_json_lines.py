from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.data import json_lines


def test_every_reader_finds_the_same_lines(tmp_path: Path) -> None:
    values = [{"a": "x\u2028y"}, {"a": "\x85 \ud800"}, {"a": "한국어"}]
    json_lines.write(tmp_path / "a.jsonl", values)
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == values
    assert "한국어" in text


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_lines.line({"a": float("nan")})
