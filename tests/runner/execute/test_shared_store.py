"""Two users of a group share a store, in a folder with the setgid bit, where new files are writable for the group."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.execute import files, gc
from runner.execute.store import Store

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="becomes other users, which takes root")
ONE, OTHER, GROUP = 54001, 54002, 54003  # ids without a name


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not in tmp_path, which other users may not enter."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


def works(user: int, act: Callable[[], object], umask: int = 0o002) -> bool:
    """Whether a user of the group can do it."""
    return ends_well(start(user, act, umask))


def start(user: int, act: Callable[[], object], umask: int = 0o002) -> int:
    """The process id of a child in which a user of the group does it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.umask(umask)
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(user)
            act()
            status = 0
        finally:
            os._exit(status)
    return child


def ends_well(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def waits_for_a_lock(child: int) -> bool:
    """Whether it waits; it has not ended."""
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    return re.search(rf"-> FLOCK\s+ADVISORY\s+\w+\s+{child} ", Path("/proc/locks").read_text()) is not None


def write(store: Store, key: str, file: str) -> None:
    (store.prepare(key, keep=True) / file).write_text("{}")


def test_each_goes_on_with_and_frees_what_the_other_made(folder: Path) -> None:
    store = Store(folder / "store")
    assert works(ONE, lambda: write(store, "train-1", "checkpoint"))
    assert works(OTHER, lambda: (write(store, "train-1", "training.json"), store.publish("train-1")))
    assert {path.name for path in store.path("train-1").iterdir()} == {"checkpoint", "training.json"}
    assert works(ONE, lambda: gc.collect(store.root, folder / "runs", gc.Rules(None, 0.0, False), dry_run=False))
    assert not store.path("train-1").exists()


def test_without_that_umask_the_other_is_refused(folder: Path) -> None:
    store = Store(folder / "store")
    assert works(ONE, lambda: write(store, "train-1", "checkpoint"), umask=0o022)
    assert not works(OTHER, lambda: write(store, "train-1", "training.json"))


def test_a_file_that_the_other_writes_is_waited_for(folder: Path) -> None:
    file, partial = folder / "file", folder / ".file.partial"
    partial.write_text("one's")
    os.chown(partial, ONE, GROUP)
    partial.chmod(0o644)
    with partial.open("rb") as writing:
        files.lock(writing)
        child = start(OTHER, lambda: files.write_atomic(file, "the other's"))
        while not waits_for_a_lock(child):
            os.sched_yield()
        partial.replace(file)
        fcntl.flock(writing, fcntl.LOCK_UN)  # the child has it open too
    assert ends_well(child)
    assert file.read_text() == "the other's"


def test_a_file_that_the_other_left_half_written_is_replaced(folder: Path) -> None:
    file, partial = folder / "file", folder / ".file.partial"
    for mode in (0o644, 0o600):
        partial.write_text("ha")
        os.chown(partial, ONE, GROUP)
        partial.chmod(mode)
        assert works(OTHER, lambda: files.write_atomic(file, "whole"))
        assert [path.name for path in folder.iterdir()] == ["file"]
        assert file.read_text() == "whole"
