"""File locks, files that appear whole, and files that are read while they grow. Standard library alone.

A lock is flock(2) on an open file: the kernel releases it with the last process that has the file open, however that
process ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

HEARTBEAT = 2.0  # seconds without a line after which `tail` yields None
_POLL = 0.1  # seconds; a person notices no finer
_CHUNK = 2**20  # bytes
_OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def lock(file: int | IO[bytes]) -> None:
    """Lock an open file for this process alone; waits for another holder."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: int | IO[bytes]) -> bool:
    """Lock an open file for this process alone; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_lock(path: Path) -> int:
    """The descriptor of a lock file, which is made where it is missing. Another user's serves as well as one's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.fchmod(descriptor, 0o666)  # whatever the umask: the next user writes a name into it
        return descriptor
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # enough for flock(2)


def name_holder(descriptor: int, holder: str) -> None:
    """Write the holder's name into its lock file, for those who wait; not if the file is another user's alone."""
    with contextlib.suppress(OSError):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def lock_holder(path: Path) -> str | None:
    """The text of a lock file that some process has locked; None if it is unlocked or missing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().decode(errors="replace")
    return None


def wait_until_unlocked(path: Path) -> None:
    """Return once no process holds the lock file; at once if it is missing."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def write_atomic(path: Path, text: str) -> Path:
    """Write a file that others see whole or not at all, even after a crash; returns `path`."""
    with _appearing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def copy_atomic(source: Path, path: Path) -> None:
    """Copy a file so that others see the copy whole or not at all."""
    with _appearing(path) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end, unless an exception ends this.

    Its name does not depend on the process, so that what a killed one left there is used by the next.
    """
    temporary = path.with_name(f".{path.name}.partial")
    descriptor = _locked(temporary)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _locked(temporary: Path) -> int:
    """The descriptor of a file that this process alone writes; waits for another that writes it."""
    while True:
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # of another user's process, or no file can be made here
            if not os.access(temporary.parent, os.W_OK):
                raise
            _remove_abandoned(temporary)
            continue
        lock(descriptor)
        if _is_at(descriptor, temporary):
            return descriptor
        os.close(descriptor)  # it has taken its place meanwhile


def _remove_abandoned(temporary: Path) -> None:
    """Remove a file that another user's process writes, or has left there, once that has ended."""
    with contextlib.suppress(PermissionError):  # nor may it be locked
        wait_until_unlocked(temporary)
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which it becomes at the end; `folder` must be free then.

    What a killed process left there is removed. Raises BlockingIOError while another process makes the same folder.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    temporary.mkdir(exist_ok=True)
    descriptor = _only_descriptor(temporary)
    if descriptor is None:
        raise BlockingIOError(errno.EAGAIN, "another command is writing it", str(folder))
    try:
        _empty(temporary)
        try:
            yield temporary
            sync_tree(temporary)
            move_new(temporary, [folder])
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _only_descriptor(folder: Path) -> int | None:
    """The descriptor of a folder that this process alone fills; None if another does, or has just moved it away."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY)
        if try_lock(descriptor) and _is_at(descriptor, folder):
            return descriptor
        os.close(descriptor)
    return None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder. Raises OSError where it cannot be known: Path.is_dir says False, from Python 3.14."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def inside(folder: Path) -> list[Path]:
    """What a folder holds, nothing where there is none. Raises OSError where it cannot be read, unlike Path.glob."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def digest(path: Path) -> str:
    """The SHA-256 of a file's content. Raises OSError."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def sync_tree(folder: Path) -> None:
    """Have everything in a folder on the disk, before a rename shows it to others; links are not followed."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_new(folder: Path, places: Iterable[Path]) -> Path:
    """Move a folder to the first of `places` that is free; returns it. Raises FileExistsError if none is."""
    for place in places:
        try:
            folder.rename(place)
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
            continue
        sync(place.parent)
        return place
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))


def tail(path: Path, offset: int, is_growing: Callable[[], bool]) -> Iterator[bytes | None]:
    """The whole lines of a file from byte `offset` on, for as long as it grows; None now and then between them."""
    partial, ended, last_yield = b"", False, time.monotonic()
    with path.open("rb") as stream:
        stream.seek(offset)
        while not ended:
            ended = not is_growing()  # asked before reading, so that the last lines are not missed
            *lines, partial = (partial + stream.read()).split(b"\n")
            yield from lines
            if lines:
                last_yield = time.monotonic()
            elif time.monotonic() - last_yield > HEARTBEAT:
                last_yield = time.monotonic()
                yield None
            if not ended:
                time.sleep(_POLL)
