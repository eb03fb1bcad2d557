from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import RecipeError
from runner.plan.checks import json_file


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert json_file.read(tmp_path / "config.json", "model.path") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON: "), (b"[" * 100_000, "not JSON: "), (b'{"a": "\xff"}', "not JSON: "),
        (b"[]", "not a JSON object"),
    ],
    ids=["cut", "deep", "not UTF-8", "list"],
)  # fmt: skip
def test_anything_else_is_told_with_key_and_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RecipeError, match=f"^model.path: {tmp_path}/config.json: {message}"):
        json_file.read(tmp_path / "config.json", "model.path")
