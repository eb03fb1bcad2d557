"""What a record says about the code: the commit, and the changes since."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runner.record import provenance


def git(folder: Path, *args: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", str(folder), *author, *args], check=True, capture_output=True, text=True).stdout


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
    assert provenance.uncommitted(checkout) == b""


def test_an_installation_inside_a_repository_is_not_of_its_commit(checkout: Path) -> None:
    installed = checkout / ".venv" / "runner" / "project"
    (installed / "scripts").mkdir(parents=True)
    (installed / "scripts" / "train.py").write_text("a = 1\n")
    assert provenance.git_state(installed) is None
    assert provenance.uncommitted(installed) == b""
    assert provenance.git_state(checkout)


def test_the_users_index_is_never_written(checkout: Path) -> None:
    """A git that is killed while it writes leaves a lock, with which no other git command works."""
    os.utime(checkout / "runner" / "a.py", (0, 0))  # the same content: git would note the new time
    (checkout / "scripts" / "new.py").write_text("a = 1\n")
    index = (checkout / ".git" / "index").read_bytes()
    assert provenance.git_state(checkout) and provenance.uncommitted(checkout)
    assert (checkout / ".git" / "index").read_bytes() == index


def test_the_difference_is_a_patch_of_the_commit(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (checkout / "runner" / "a.py").write_text("a = 2\n")
    (checkout / "scripts" / "new one.py").write_text("new = 'ä'\n")
    (checkout / "notes.txt").write_text("mine alone\n")
    status = git(checkout, "status", "--porcelain")
    difference = provenance.uncommitted(checkout)
    assert b"mine alone" not in difference
    assert git(checkout, "status", "--porcelain") == status

    again = tmp_path_factory.mktemp("again")
    git(again, "clone", "-q", str(checkout), ".")
    (again / "patch").write_bytes(difference)
    git(again, "apply", "patch")
    for file in ("runner/a.py", "scripts/new one.py"):
        assert (again / file).read_bytes() == (checkout / file).read_bytes()


def test_a_folder_of_a_larger_repository_is_recorded_as_one_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / ".mono" / "recipes of mine"
    (root / "runner").mkdir(parents=True)
    for name in ("kept.py", "gone.py"):
        (root / "runner" / name).write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (root / "runner" / "kept.py").write_text("a = 2\n")
    (root / "runner" / "gone.py").unlink()
    (root / "runner" / "new.py").write_text("a = 3\n")
    difference = provenance.uncommitted(root)
    for line in (b"+++ b/runner/kept.py", b"--- a/runner/gone.py", b"+++ b/runner/new.py"):
        assert line in difference


SECRETS = (
    "configs/.env", "scripts/.aws/credentials", "recipes/key.pem", "recipes/my-token.json", "configs/secrets.yaml",
    "runner/id_rsa", "scripts/secrets/all.yaml",
)  # fmt: skip


def test_files_that_may_hold_a_secret_are_left_out(checkout: Path) -> None:
    for name in SECRETS:
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("hunter2\n")
    assert provenance.uncommitted(checkout) == b""
    for name in ("runner/keys.py", "scripts/tokenizer.json", "configs/my_llama.yaml"):
        (checkout / name).write_text("'plain'\n")
    git(checkout, "add", "-f", "configs/.env")
    difference = provenance.uncommitted(checkout)
    assert difference.count(b"+'plain'") == 3 and b"hunter2" not in difference


def test_large_files_are_named_without_their_content(checkout: Path) -> None:
    (checkout / "recipes" / "rows.jsonl").write_text("{}\n" * 500_000)
    difference = provenance.uncommitted(checkout)
    assert b"rows.jsonl" in difference
    assert len(difference) < 1000


def test_a_folder_outside_git_has_no_difference(tmp_path: Path) -> None:
    assert provenance.uncommitted(tmp_path) == b""


def test_the_commit_and_whether_code_was_changed_since(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commit = git(checkout, "rev-parse", "HEAD").strip()
    (checkout / "notes.txt").write_text("not code\n")
    assert provenance.git_state(checkout) == {"commit": commit, "changed": False}
    (checkout / "runner" / "a.py").write_text("a = 2\n")
    assert provenance.git_state(checkout) == {"commit": commit, "changed": True}
    assert provenance.git_state(tmp_path_factory.mktemp("outside")) is None


def test_versions_of_installed_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("hydra-core", "no-such-package"))
    versions = provenance.package_versions()
    assert versions["hydra-core"] and versions["hydra-core"].startswith("1.3")
    assert versions["no-such-package"] is None
