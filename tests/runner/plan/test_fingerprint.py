"""Fingerprints change with what matters and with nothing else."""

from __future__ import annotations

import ast
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from runner.errors import RecipeError
from runner.plan import fingerprint
from runner.plan.command import SCRIPTS


def hash_path(path: Path, key: str, digest_cache: Path) -> str:
    return fingerprint.hash_path(path, key, partial(fingerprint.hash_file, digest_cache=digest_cache))


def test_content_counts_and_time_does_not(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("a")
    before = hash_path(file, "dataset.path", tmp_path / "memory")
    os.utime(file, (1, 1))
    assert hash_path(file, "dataset.path", tmp_path / "memory") == before
    file.write_text("b")
    assert hash_path(file, "dataset.path", tmp_path / "memory") != before


def test_names_in_a_folder_count(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("x")
    before = hash_path(folder, "model.path", tmp_path)
    (folder / "a").rename(folder / "b")
    assert hash_path(folder, "model.path", tmp_path) != before


def test_large_files_are_remembered_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_LARGE", 1)
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_text("one")
    first = hash_path(file, "model.path", memory)
    assert len(list(memory.iterdir())) == 1
    file.write_text("two")
    os.utime(file, (5, 5))
    assert hash_path(file, "model.path", memory) != first


@pytest.mark.parametrize("left", ["", "0" * 63, "\0" * 64])
def test_a_damaged_digest_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    monkeypatch.setattr(fingerprint, "_LARGE", 1)
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_text("one")
    first = hash_path(file, "model.path", memory)
    [kept] = memory.iterdir()
    kept.write_text(left)
    assert hash_path(file, "model.path", memory) == first == kept.read_text()


@pytest.mark.parametrize("kind", ["pipe", "device", "pipe in a folder"])
def test_what_may_never_end_is_not_read(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    if kind == "pipe in a folder":
        hash_path(tmp_path, "model.path", tmp_path / "memory")
        return
    with pytest.raises(RecipeError, match="model.path: .*: neither a file nor a folder"):
        hash_path(Path("/dev/zero") if kind == "device" else tmp_path / "pipe", "model.path", tmp_path / "memory")


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="dataset.path: .*nowhere: no such file"):
        hash_path(tmp_path / "nowhere", "dataset.path", tmp_path)


def hashed(program: Path) -> str:
    fingerprint._imported.cache_clear()
    fingerprint._local_imports.cache_clear()
    fingerprint._sources.cache_clear()
    return fingerprint.hash_program(program)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that imports common/b.py; common/c.py it does not import."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "b.py").write_text("x = 1\n")
    (tmp_path / "common" / "c.py").write_text("x = 1\n")
    program = tmp_path / "a.py"
    program.write_text("from common import b\n")
    return program


def test_a_program_counts_with_what_it_imports(program: Path) -> None:
    before = hashed(program)
    (program.parent / "common" / "c.py").write_text("x = 2\n")
    assert hashed(program) == before, "not imported"
    (program.parent / "common" / "b.py").write_text("x = 2\n")
    assert hashed(program) != before


def test_the_data_file_of_a_module_counts(program: Path) -> None:
    before = hashed(program)
    (program.parent / "common" / "c.json").write_text("{}")
    assert hashed(program) == before, "its module is not imported"
    (program.parent / "common" / "b.json").write_text("{}")
    assert hashed(program) != before


@pytest.mark.parametrize("folder", ["common", "common/data"])
def test_the_init_file_of_each_package_above_an_import_counts(program: Path, folder: str) -> None:
    (program.parent / "common" / "data").mkdir()
    (program.parent / "common" / "data" / "rows.py").write_text("x = 1\n")
    program.write_text("from common.data import rows\n")
    before = hashed(program)
    init = program.parent / folder / "__init__.py"
    init.write_text("x = 1\n")
    added = hashed(program)
    init.write_text("x = 2\n")
    assert len({before, added, hashed(program)}) == 3


def test_what_an_init_file_imports_counts(program: Path) -> None:
    (program.parent / "common" / "__init__.py").write_text("from common import c\n")
    before = hashed(program)
    (program.parent / "common" / "c.py").write_text("x = 2\n")
    assert hashed(program) != before


def test_a_module_that_moves_changes_the_hash(program: Path) -> None:
    """Its source is the same, and so is that of the program, which looks in both places."""
    program.write_text("try:\n    from common import b\nexcept ImportError:\n    from common.data import b\n")
    (program.parent / "common" / "data").mkdir()
    before = hashed(program)
    (program.parent / "common" / "b.py").rename(program.parent / "common" / "data" / "b.py")
    assert hashed(program) != before


def test_a_checkout_elsewhere_has_the_same_hash(program: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = shutil.copytree(program.parent, tmp_path_factory.mktemp("elsewhere") / "scripts")
    assert hashed(copy / "a.py") == hashed(program)


@pytest.mark.parametrize(
    "statement",
    [
        "import common.b as b",
        "import sys, common.b",
        "import sys; import common.b",
        "from common import (  # why (not c)\n    a,\n    b,\n)",
        "from common import \\\n    b",
        "def late():\n    from common.b import x",
        "try:\n\tfrom common import b\nexcept ImportError:\n\tpass",
    ],
)
def test_imports_are_found_however_they_are_written(program: Path, statement: str) -> None:
    program.write_text(f'"""\nFrom here to there,\nimport nothing at all.\n"""\n{statement}\n')
    before = hashed(program)
    (program.parent / "common" / "b.py").write_text("x = 2\n")
    assert hashed(program) != before


def test_every_import_of_the_stage_programs_is_found() -> None:
    for path in SCRIPTS.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert fingerprint._modules(source) >= _by_syntax(source), path


def _by_syntax(source: str) -> set[str]:
    """Names of the imported modules, from the syntax tree."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
