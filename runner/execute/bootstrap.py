"""The first contact with a machine that has none of our code: its Python runs this file's text, `python3 -c TEXT VERB`.

    look FOLDER NAME...    print as JSON: the version of this Python, free bytes, which names exist in FOLDER, and
                           whether it is a file; those that exist count as used now
    receive FOLDER [TAR]   unpack a tar, by default from standard input, which may stay open after the tar's end;
                           every entry DIR/NAME appears whole, unless it exists already

Standard library alone, in syntax that even a Python that is too old can read, so that it can report its version.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

MINIMUM = (3, 9)


def look(folder, names):
    """Print the Python version, the free bytes and the existing `names` of a folder that need not exist."""
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.is_dir())
    present = [name for name in names if (folder / name).exists()]
    for name in present:
        with contextlib.suppress(OSError):  # another user brought it
            os.utime(str(folder / name))
    report = {
        "python": list(sys.version_info[:3]),
        "free": shutil.disk_usage(str(existing)).free,
        "there": present,
        "is_file": folder.is_file(),
    }
    print(json.dumps(report))


def receive(folder, tars):
    """Unpack to a temporary folder, then move each DIR/NAME into place: it appears whole, and nothing is replaced.

    What a killed process left in such a folder is removed.
    """
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    temporary, lock = make_temporary(folder)
    try:
        with tarfile.open(tars[0]) if tars else tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            if hasattr(tarfile, "data_filter"):  # later Pythons warn without it; the first of 3.9 and 3.10 have none
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(str(temporary))
        for unpacked in temporary.glob("*/*"):
            target = folder / unpacked.relative_to(temporary)
            target.parent.mkdir(exist_ok=True)
            try:
                if not target.exists():
                    sync_tree(unpacked)
                    unpacked.rename(target)
                    sync(target.parent)
            except OSError:
                if not target.exists():  # otherwise another sender of the same was faster
                    raise
    finally:
        shutil.rmtree(str(temporary), ignore_errors=True)
        os.close(lock)


def make_temporary(folder):
    """Make a folder that is locked while this process lives: (its path, the lock). Those without a lock are removed."""
    one_at_a_time = try_lock(folder, fcntl.LOCK_EX)[0]
    try:
        for path in folder.glob("incoming-*"):
            lock, is_free = try_lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_free:
                shutil.rmtree(str(path), ignore_errors=True)
            os.close(lock)
        temporary = Path(tempfile.mkdtemp(prefix="incoming-", dir=str(folder)))
        return temporary, try_lock(temporary, fcntl.LOCK_EX)[0]
    finally:
        os.close(one_at_a_time)


def try_lock(folder, how):
    """Lock a folder: (its descriptor, whether it is locked now). Some file systems of clusters have no locks."""
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        return descriptor, True
    except OSError:
        return descriptor, False


def sync_tree(folder):
    """Have everything in a folder, or a file, on the disk, before a rename shows it to others."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def sync(path):
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(verb, folder, *names):
    """Entry point: VERB FOLDER [NAME...]."""
    if sys.version_info < MINIMUM and verb != "look":
        sys.exit("this Python is too old")
    try:
        look(Path(folder), names) if verb == "look" else receive(Path(folder), names)
    except (OSError, tarfile.TarError) as error:
        sys.exit("{}: {}".format(getattr(error, "filename", None) or folder, getattr(error, "strerror", None) or error))


if __name__ == "__main__":
    main(*sys.argv[1:])
