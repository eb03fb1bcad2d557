"""What a run's record says of the code: the commit, and what differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from records import a_run

from runner.record import create, runs


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("configs", "recipes", "runner", "scripts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_checkout_has_no_difference(checkout: Path) -> None:
    assert create.uncommitted(checkout) == b""


def test_the_difference_is_a_patch_of_the_commit(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (checkout / "runner" / "a.py").write_text("a = 2\n")
    (checkout / "scripts" / "new one.py").write_text("new = 'ä'\n")
    (checkout / "notes.txt").write_text("mine alone\n")
    status = git(checkout, "status", "--porcelain")
    difference = create.uncommitted(checkout)
    assert b"mine alone" not in difference
    assert git(checkout, "status", "--porcelain") == status

    again = tmp_path_factory.mktemp("again")
    git(again, "clone", "-q", str(checkout), ".")
    (again / "patch").write_bytes(difference)
    git(again, "apply", "patch")
    for file in ("runner/a.py", "scripts/new one.py"):
        assert (again / file).read_bytes() == (checkout / file).read_bytes()


def test_large_files_are_named_without_their_content(checkout: Path) -> None:
    (checkout / "recipes" / "rows.jsonl").write_text("{}\n" * 500_000)
    difference = create.uncommitted(checkout)
    assert b"rows.jsonl" in difference
    assert len(difference) < 1000


def test_a_folder_outside_git_has_no_difference(tmp_path: Path) -> None:
    assert create.uncommitted(tmp_path) == b""


def test_a_record_is_not_seen_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(create, "uncommitted", lambda _: seen.append(runs.every(tmp_path / "runs")) or b"")
    made = a_run(tmp_path)
    assert seen == [[]]
    assert [run.folder for run in runs.every(tmp_path / "runs")] == [made.folder]


NAMES = {"50%j: my recipe": "50-j-my-recipe", "a/../b": "a-..-b", "레시피": "레시피", "//": "run", "x" * 99: "x" * 48}


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_a_run_has_a_folder_that_no_program_reads_another_meaning_into(tmp_path: Path, name: str, part: str) -> None:
    run = a_run(tmp_path, f'name="{name}"')
    assert run.folder.parent == tmp_path / "runs" and run.name.endswith(f"-{part}")
    assert run.recipe["name"] == name
