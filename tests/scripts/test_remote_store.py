"""Artifacts to and from a folder that machines share; what S3 adds is in tests/integration/test_s3.py."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import remote_store
from common.remote_files import RemoteFolder
from runner.paths import SCRIPTS

NAME = "artifacts/train-1"
FILES = {"adapter/weights": "w" * 100_000, "adapter/config.json": "{}", "empty": "", "same": "{}"}
# Runs a program, and kills it at its n-th call that changes a file.
KILLED = """
import os, runpy, signal, sys
left, sys.argv = int(sys.argv[1]), sys.argv[2:]
def count(event, arguments):
    global left
    changes = event in ("os.rename", "os.remove", "os.mkdir", "shutil.copyfile")
    if changes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
sys.dont_write_bytecode = True
sys.addaudithook(count)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "folder", FILES)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


def written(folder: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def call(*args: str | Path, killed_at: int | None = None) -> subprocess.CompletedProcess[str]:
    killed = [] if killed_at is None else ["-c", KILLED, str(killed_at)]
    command = [sys.executable, *killed, str(SCRIPTS / "remote_store.py"), *map(str, args)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def done(*args: str | Path) -> None:
    process = call(*args)
    assert process.returncode == 0, process.stderr


def names_there(remote: Path, tmp_path: Path) -> list[str]:
    done(remote, "list", NAME, "artifacts/other", "--output", tmp_path / "found.json")
    return json.loads((tmp_path / "found.json").read_text())


def test_what_was_pushed_is_fetched_elsewhere(folder: Path, remote: Path, tmp_path: Path) -> None:
    assert names_there(remote, tmp_path) == []
    done(remote, "push", NAME, folder)
    assert names_there(remote, tmp_path) == [NAME]
    done(remote, "fetch", NAME, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


def test_a_push_that_is_killed_anywhere_shows_nothing_and_is_completed_by_the_next(
    folder: Path, remote: Path, tmp_path: Path
) -> None:
    point = 0
    while call(remote, "push", NAME, folder, killed_at=point).returncode == -signal.SIGKILL:
        if (remote / NAME / "manifest.json").is_file() and (remote / NAME / "manifest.json").stat().st_size:
            pytest.fail(f"the manifest was there at point {point}, and the push went on")
        done(remote, "push", NAME, folder)
        assert not list(remote.rglob("*.partial"))
        done(remote, "fetch", NAME, tmp_path / f"copy-{point}")
        assert read(tmp_path / f"copy-{point}") == FILES
        shutil.rmtree(remote)
        point += 1
    assert point > 4


def test_a_fetch_that_is_killed_anywhere_is_completed_by_the_next(folder: Path, remote: Path, tmp_path: Path) -> None:
    done(remote, "push", NAME, folder)
    point, copy = 0, tmp_path / "copy"
    while call(remote, "fetch", NAME, copy, killed_at=point).returncode == -signal.SIGKILL:
        done(remote, "fetch", NAME, copy)
        assert read(copy) == FILES
        shutil.rmtree(copy)
        point += 1
    assert point > 4


@pytest.mark.parametrize("damage", [lambda path: path.write_text("v" * 100_000), Path.unlink])
def test_a_damaged_artifact_is_refused_and_can_be_pushed_again(
    folder: Path, remote: Path, tmp_path: Path, damage
) -> None:
    done(remote, "push", NAME, folder)
    damage(next(path for path in (remote / NAME).iterdir() if path.stat().st_size == 100_000))
    process = call(remote, "fetch", NAME, tmp_path / "copy")
    assert process.returncode == 1
    assert "weights" in process.stderr
    assert names_there(remote, tmp_path) == []
    done(remote, "push", NAME, folder)
    done(remote, "fetch", NAME, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


def test_an_artifact_is_not_replaced_and_checkpoints_are(folder: Path, remote: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other", {"empty": "", "step_2/rank_0.pt": "2"})
    done(remote, "push", NAME, folder)
    done(remote, "push", NAME, other)
    done(remote, "fetch", NAME, tmp_path / "first")
    assert read(tmp_path / "first") == FILES
    done(remote, "push", NAME, other, "--replace")
    done(remote, "fetch", NAME, tmp_path / "second")
    assert read(tmp_path / "second") == read(other)
    assert len(list((remote / NAME).iterdir())) == 3  # what only the first had is gone


def at_the_first(monkeypatch: pytest.MonkeyPatch, method: str, file: str, act: Callable[[], None]) -> None:
    """Have another machine act right after the first call of a method of RemoteFolder about a file."""
    original, acted = getattr(RemoteFolder, method), []

    def call_then_act(remote: RemoteFolder, *args):
        result = original(remote, *args)
        if file in args and not acted:
            acted.append(True)
            act()
        return result

    monkeypatch.setattr(RemoteFolder, method, call_then_act)


@pytest.mark.parametrize(
    ("method", "file"), [("size", hashlib.sha256(b"1").hexdigest()), ("write", "manifest.json")], ids=["size", "write"]
)
def test_machines_that_replace_the_same_at_once_lose_no_file(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, file: str
) -> None:
    """One that goes on from a checkpoint while the other one drops it."""
    first, going_on, dropping = (
        written(tmp_path / name, content)
        for name, content in {
            "first": {"step_1": "1"},
            "a": {"step_1": "1", "step_2": "a"},
            "b": {"step_2": "b"},
        }.items()
    )
    done(remote, "push", NAME, first)
    other, this = (going_on, dropping) if method == "write" else (dropping, going_on)
    at_the_first(monkeypatch, method, file, lambda: done(remote, "push", NAME, other, "--replace"))
    remote_store.push(remote_store.flags().parse_args([str(remote), "push", NAME, str(this), "--replace"]))
    done(remote, "fetch", NAME, tmp_path / "copy")
    assert read(tmp_path / "copy") == read(going_on)


def test_what_is_replaced_during_a_fetch_is_fetched_anew(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = written(tmp_path / "first", {"step_1": "1"}), written(tmp_path / "second", {"step_2": "2"})
    done(remote, "push", NAME, first)
    at_the_first(monkeypatch, "read", "manifest.json", lambda: done(remote, "push", NAME, second, "--replace"))
    remote_store.fetch(remote_store.flags().parse_args([str(remote), "fetch", NAME, str(tmp_path / "copy")]))
    assert read(tmp_path / "copy") == read(second)
    assert names_there(remote, tmp_path) == [NAME]


def test_a_manifest_of_an_earlier_version_is_read(folder: Path, remote: Path, tmp_path: Path) -> None:
    done(remote, "push", NAME, folder)
    manifest = remote / NAME / "manifest.json"
    files = json.loads(manifest.read_text())["files"]
    manifest.write_text(json.dumps({"files": {name: [*entry, 1_700_000_000] for name, entry in files.items()}}))
    done(remote, "fetch", NAME, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


def test_what_was_removed_is_gone(folder: Path, remote: Path, tmp_path: Path) -> None:
    done(remote, "push", NAME, folder)
    done(remote, "remove", NAME)
    done(remote, "remove", NAME)
    assert names_there(remote, tmp_path) == []
    assert list((remote / NAME).iterdir()) == []


def test_a_manifest_cannot_name_a_file_elsewhere(remote: Path, tmp_path: Path) -> None:
    (remote / NAME).mkdir(parents=True)
    (remote / NAME / "manifest.json").write_text(json.dumps({"files": {"../outside": [0, "0" * 64, 0]}}))
    process = call(remote, "fetch", NAME, tmp_path / "copy")
    assert (process.returncode, "../outside" in process.stderr) == (1, True)
    assert not (tmp_path / "outside").exists()


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = call(tmp_path / "file", "list", NAME, "--output", tmp_path / "found.json")
    assert (process.returncode, process.stderr.count("\n"), "Traceback" in process.stderr) == (1, 1, False)
