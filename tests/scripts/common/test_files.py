from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.files import check_free_space, read_json, sampled_digest
from common.program import BadInput


def test_too_little_space_names_the_flag(tmp_path: Path) -> None:
    check_free_space(tmp_path / "new" / "folder", 1)
    with pytest.raises(BadInput, match=r"--artifacts .*new: .* GB are needed"):
        check_free_space(tmp_path / "new", 10**18, "--artifacts")


def test_a_small_disk_is_not_said_to_have_0_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(3 * 10**7, 3 * 10**7, 4096))
    with pytest.raises(BadInput, match=r"25.0 MB are needed, 4096 bytes are free"):
        check_free_space(tmp_path, 25 * 10**6)


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file is not a folder"):
        check_free_space(tmp_path / "file" / "output", 1)


@pytest.mark.parametrize(("text", "problem"), [(None, "no such file"), ("{", "not JSON"), ("[1]", "not a JSON object")])
def test_anything_but_a_json_object_is_refused(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match=f"a.json: {problem}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("change", [0, 2**22, -1])
def test_a_sampled_digest_knows_a_file_by_its_content(tmp_path: Path, change: int) -> None:
    content = bytearray(2**22 + 10_000)
    for name in ("one", "same"):
        (tmp_path / name).write_bytes(content)
    content[change] = 1
    (tmp_path / "other").write_bytes(content)
    (tmp_path / "longer").write_bytes(bytes(len(content) + 1))
    one, same, other, longer = (sampled_digest(tmp_path / name) for name in ("one", "same", "other", "longer"))
    assert one == same
    assert len({one, other, longer}) == 3
