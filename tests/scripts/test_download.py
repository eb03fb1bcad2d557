"""Copies of what a plan has listed; what S3 adds is in tests/integration/test_s3.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import download
from common import program


def listing(**sizes: int) -> str:
    """The hash of names and sizes, without ETags, as a folder has none."""
    return hashlib.sha256(json.dumps(sorted([name, f"{size} "] for name, size in sizes.items())).encode()).hexdigest()


def call(output: Path, *copies: tuple[str, str, str]) -> int:
    words = [word for copy in copies for word in ("--copy", *copy)]
    return program.main(download.run, download.flags(), [*words, "--output", str(output)])


def test_files_and_folders_are_copied(tmp_path: Path) -> None:
    (tmp_path / "model" / ".hidden").mkdir(parents=True)
    (tmp_path / "model" / "config").write_text("{}")
    (tmp_path / "model" / ".hidden" / "file").write_text("not listed")
    copies = [
        (f"{tmp_path}/model", "0/model", listing(config=2)),
        (f"{tmp_path}/model/config", "1/config", listing(**{"": 2})),
    ]
    for _ in range(2):  # the second time everything is there
        assert call(tmp_path / "output", *copies) == 0
        found = sorted(path for path in (tmp_path / "output").rglob("*") if path.is_file())
        assert [str(path.relative_to(tmp_path / "output")) for path in found] == ["0/model/config", "1/config"]
        assert [path.read_text() for path in found] == ["{}", "{}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "has changed since the run was planned; run the command again"),
        ("nowhere", "no such file or folder"),
    ],
)
def test_what_is_not_as_it_was_listed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config").write_text("longer")
    assert call(tmp_path / "output", (f"{tmp_path}/{name}", "0/model", listing(config=2))) == 2
    assert f"{tmp_path}/{name}: {message}" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()
