"""Locks end with their holder, files appear whole, and a growing file is read to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.execute import files

HOLD = """
import os, sys
from runner.execute import files
with open(sys.argv[1], "wb") as lock:
    files.lock(lock)
    lock.write(str(os.getpid()).encode())
    lock.flush()
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert files.lock_holder(path) is None
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"locked\n"
    assert files.lock_holder(path) == str(holder.pid)
    with path.open("rb") as file:
        assert not files.try_lock(file)
    holder.kill()
    files.wait_until_unlocked(path)
    holder.communicate()
    assert files.lock_holder(path) is None
    with path.open("rb") as file:
        assert files.try_lock(file)


def test_a_missing_lock_file_is_not_waited_for(tmp_path: Path) -> None:
    files.wait_until_unlocked(tmp_path / "missing")


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_atomic(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    files.write_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


WRITE = """
import os, shutil, sys
from pathlib import Path
from runner.execute import files
shutil.copyfile = lambda source, path: (print("writing", flush=True), sys.stdin.read(), os._exit(9))
files.copy_atomic(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_what_a_killed_process_left_beside_a_file_is_replaced_by_the_next(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "a.json"
    source.write_text("new")
    command = [sys.executable, "-c", WRITE, str(source), str(path)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout and writer.stdout.readline() == b"writing\n"
    writer.kill()
    writer.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    files.copy_atomic(source, path)
    assert sorted(tmp_path.iterdir()) == [path, source]
    assert path.read_text() == "new"


def test_processes_that_write_the_same_file_take_turns(tmp_path: Path) -> None:
    write = "import sys; from pathlib import Path; from runner.execute import files\n"
    write += "source, path = map(Path, sys.argv[1:])\n"
    write += "for _ in range(1000): files.copy_atomic(source, path)\n"  # does not wait for a disk
    write += "for _ in range(200): files.write_atomic(path, source.read_text())"
    sources = [tmp_path / letter for letter in "abcd"]
    for source in sources:
        source.write_text(source.name * 1000)
    writers = [
        subprocess.Popen([sys.executable, "-c", write, str(source), str(tmp_path / "file")]) for source in sources
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert sorted(tmp_path.iterdir()) == [*sources, tmp_path / "file"]
    assert (tmp_path / "file").read_text() in [source.read_text() for source in sources]


def test_lines_of_a_growing_file_come_whole_and_none_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HEARTBEAT", 0.0)
    path = tmp_path / "log"
    path.write_bytes(b"skipped\none\ntw")
    rest = [b"o\n", b"", b"three\nunfinished"]

    def is_growing() -> bool:
        with path.open("ab") as stream:
            stream.write(rest.pop(0))
        return bool(rest)

    assert list(files.tail(path, len("skipped\n"), is_growing)) == [b"one", b"two", None, b"three"]


def test_a_lock_file_of_one_user_serves_the_next(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one"
    before = os.umask(0o077)
    try:
        os.close(files.open_lock(path))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_folder_is_moved_to_the_first_free_place(tmp_path: Path) -> None:
    for name in ("new", "taken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "file").touch()
    places = [tmp_path / name for name in ("taken", "file", "free", "free-2")]
    assert files.move_new(tmp_path / "new", places) == tmp_path / "free"
    assert (tmp_path / "taken" / "file").read_text() == "taken"
    with pytest.raises(FileExistsError):
        files.move_new(tmp_path / "taken", [tmp_path / "free"])


MAKE = """
import sys
from pathlib import Path
from runner.execute import files
with files.made_aside(Path(sys.argv[1])) as made:
    (made / "a file").touch()
    print("made", flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_is_made_aside_has_one_maker_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    maker = subprocess.Popen([sys.executable, "-c", MAKE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert maker.stdout and maker.stdout.readline() == b"made\n"
    with pytest.raises(BlockingIOError, match="another command is writing it"), files.made_aside(folder):
        pass
    maker.kill()
    maker.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    with files.made_aside(folder) as made:
        assert not folder.exists() and not list(made.iterdir())
        (made / "another").touch()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/another"]
