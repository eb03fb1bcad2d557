"""The Makefile's targets that take names of a user's or remove what a user made."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(folder: Path, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *words]
    return subprocess.run(command, cwd=folder, stdin=stdin, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with an environment whose `runner` prints its words, one a line, a store and a run."""
    for name in (".venv/bin", "store/objects", "runs/20261125-120000-mine"):
        (tmp_path / name).mkdir(parents=True)
    for name in (".venv/.done", "pyproject.toml"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "pyproject.toml", (0, 0))
    runner = tmp_path / ".venv" / "bin" / "runner"
    runner.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    runner.chmod(0o755)
    return tmp_path


NAMES = ["my recipe.yaml", "it's.yaml", 'a"b.yaml', "a$b;c.yaml", "레시피 1.yaml", "50%j.yaml"]


@pytest.mark.parametrize("recipe", NAMES)
def test_a_recipe_may_be_called_anything(checkout: Path, recipe: str) -> None:
    for target, before, after in (("run", ["run"], []), ("plan", ["plan"], []), ("sweep", ["run"], ["-m"])):
        (checkout / ".venv" / ".sweep").touch()
        done = make(checkout, "--silent", target, f"RECIPE={recipe}", "ARGS=name='my name' tp_size=1")
        assert done.stdout.splitlines() == [*before, recipe, *after, "name=my name", "tp_size=1"], done.stderr


def test_clean_keeps_what_was_trained(checkout: Path) -> None:
    assert make(checkout, "clean").returncode == 0
    assert sorted(path.name for path in checkout.iterdir()) == ["pyproject.toml", "runs", "store"]


def test_purge_asks_first(checkout: Path) -> None:
    done = make(checkout, "purge")
    assert done.returncode and "no terminal for the question; PURGE=yes" in done.stderr
    ours, its = pty.openpty()
    os.write(ours, b"n\n")
    done = make(checkout, "purge", stdin=its)
    assert done.returncode and "nothing was removed" in done.stdout
    assert (checkout / "store").is_dir() and (checkout / "runs").is_dir()
    assert make(checkout, "purge", "PURGE=yes").returncode == 0
    assert not (checkout / "store").exists() and not (checkout / "runs").exists()
