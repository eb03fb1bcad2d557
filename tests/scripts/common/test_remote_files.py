"""Files of a folder that machines share; those on S3 are in tests/integration/test_s3.py."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Thread

import pytest

from common.program import BadInput, StageFailed
from common.remote_files import RemoteFolder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    remote = RemoteFolder(f"{tmp_path}/remote/")
    remote.write("a/b.json", b"{}")
    remote.upload(__file__, "a/c")
    remote.download("a/c", str(tmp_path / "copy"))
    assert remote.read("a/b.json") == b"{}"
    assert (remote.size("a/b.json"), remote.size("a/d")) == (2, None)
    assert (tmp_path / "copy").read_text() == Path(__file__).read_text()


def test_a_file_that_is_written_again_is_whole_meanwhile(tmp_path: Path) -> None:
    """Two machines may push the same artifact to a shared folder."""
    size = 2**28
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    remote = RemoteFolder(f"{tmp_path}/remote")
    remote.upload(f"{tmp_path}/large", "copy")
    again = Thread(target=remote.upload, args=(f"{tmp_path}/large", "copy"))
    again.start()
    seen = {remote.size("copy")}
    while again.is_alive():
        seen.add(remote.size("copy"))
    assert seen == {size}
    assert [path.name for path in (tmp_path / "remote").iterdir()] == ["copy"]


def test_a_missing_file_can_be_removed_but_not_read(tmp_path: Path) -> None:
    remote = RemoteFolder(str(tmp_path))
    remote.remove("a")
    with pytest.raises(FileNotFoundError):
        remote.read("a")


def test_an_error_is_one_line_with_the_address(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StageFailed, match=f"^{tmp_path}/file/a: Not a directory$"):
        RemoteFolder(f"{tmp_path}/file").read("a")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BadInput, match=r"^s3://bucket/a needs the package s3fs: .* -m pip install s3fs$"):
        RemoteFolder("s3://bucket/a")
