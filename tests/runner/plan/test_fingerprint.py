"""Fingerprints change with what matters and with nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.errors import RecipeError
from runner.plan import fingerprint as identity


def test_content_counts_and_time_does_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("a")
    before = identity.of_path(file, "dataset.path", tmp_path / "memory")
    os.utime(file, (1, 1))
    assert identity.of_path(file, "dataset.path", tmp_path / "memory") == before
    file.write_text("b")
    assert identity.of_path(file, "dataset.path", tmp_path / "memory") != before


def test_names_in_a_folder_count(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("x")
    before = identity.of_path(folder, "model.path", tmp_path)
    (folder / "a").rename(folder / "b")
    assert identity.of_path(folder, "model.path", tmp_path) != before


def test_large_files_are_remembered_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_LARGE", 1)
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_text("one")
    first = identity.of_path(file, "model.path", memory)
    assert len(list(memory.iterdir())) == 1
    file.write_text("two")
    os.utime(file, (5, 5))
    assert identity.of_path(file, "model.path", memory) != first


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="dataset.path: .*nowhere: no such file"):
        identity.of_path(tmp_path / "nowhere", "dataset.path", tmp_path)


def test_a_program_counts_with_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    program, helper, other = tmp_path / "a.py", tmp_path / "common" / "b.py", tmp_path / "common" / "c.py"
    program.write_text("from common import b\n")
    helper.write_text("x = 1\n")
    other.write_text("x = 1\n")

    def fingerprint() -> str:
        identity._imported.cache_clear()
        identity._local_imports.cache_clear()
        return identity.of_program(program)

    before = fingerprint()
    other.write_text("x = 2\n")
    assert fingerprint() == before
    helper.write_text("x = 2\n")
    changed = fingerprint()
    assert changed != before
    (tmp_path / "common" / "c.json").write_text("{}")
    assert fingerprint() == changed
    (tmp_path / "common" / "b.json").write_text("{}")
    assert fingerprint() != changed, "a module's data lies beside it"
