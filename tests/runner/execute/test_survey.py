"""What a machine says of the files that lie on it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from runner.execute import survey


def lines(*patterns: Path | str, cache: Path) -> list[survey.Line]:
    return [line for line in survey.survey(list(map(str, patterns)), cache) if line]


def content(line: survey.Line) -> bytes:
    return zlib.decompress(base64.b64decode(line["content"]))


def test_files_folders_and_patterns_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text("hidden")
    (folder / "config.json").write_text("{}")
    found = lines(folder, tmp_path / "*" / "*.json", tmp_path / "no [such]", cache=tmp_path / "digests")
    assert [line.get("path") or line for line in found] == [
        {"folder": str(folder)}, f"{folder}/config.json", f"{folder}/config.json", {"missing": f"{tmp_path}/no [such]"},
    ]  # fmt: skip
    assert content(found[1]) == b"{}"


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_text("one")
    (tmp_path / "rows1.jsonl").write_text("two")
    [line] = lines(tmp_path / "rows[1].jsonl", cache=tmp_path / "digests")
    assert content(line) == b"one"


def test_only_what_checks_read_is_sent_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SMALL", 30)
    monkeypatch.setattr(survey, "ROWS", 40)
    header = (20).to_bytes(8, "little") + b"x" * 20
    (tmp_path / "model.safetensors").write_bytes(header + bytes(100))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 10)
    (tmp_path / "other.bin").write_bytes(bytes(100))
    (tmp_path / "medium.csv").write_text("x" * 35)
    names = ("model.safetensors", "rows.jsonl", "other.bin", "medium.csv")
    sent = [content(line) for line in lines(*(tmp_path / name for name in names), cache=tmp_path / "digests")]
    assert sent == [header, b'{"a": 1}\n' * 3, b"", b"x" * 35]


def test_digests_of_large_files_are_kept_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_LARGE", 1)
    file, cache = tmp_path / "weights.bin", tmp_path / "folder" / "digests"
    file.write_text("one")
    [first] = lines(file, cache=cache)
    [kept] = cache.iterdir()
    kept.write_text("ab" * 32)
    assert [line["digest"] for line in lines(file, cache=cache)] == ["ab" * 32] != [first["digest"]]
    file.write_text("two")
    os.utime(file, (5, 5))
    assert lines(file, cache=cache)[0]["digest"] not in ("ab" * 32, first["digest"])


@pytest.mark.parametrize("left", [b"", b"ab" * 31, bytes(64), b"\xff" * 64])
def test_a_digest_that_was_cut_short_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    monkeypatch.setattr(survey, "_LARGE", 1)
    file, cache = tmp_path / "weights.bin", tmp_path / "digests"
    file.write_text("one")
    [first] = lines(file, cache=cache)
    [kept] = cache.iterdir()
    kept.write_bytes(left)
    assert lines(file, cache=cache) == [first]
    assert kept.read_text() == first["digest"] and list(cache.iterdir()) == [kept]


def test_its_text_runs_where_nothing_of_ours_is(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    program = Path(survey.__file__).read_text()
    command = [sys.executable, "-I", "-c", program, str(tmp_path / "folder"), str(tmp_path / "rows.jsonl")]
    [line] = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    assert json.loads(line)["size"] == 2
    assert not (tmp_path / "folder").exists()
