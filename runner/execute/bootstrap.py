"""The first contact with a machine that has none of our code: its Python runs this file's text, `python3 -c TEXT VERB`.

    look FOLDER NAME...    print as JSON: the version of this Python, free bytes, which names exist in FOLDER, and
                           whether it is a file; those that exist count as used now
    receive FOLDER [TAR]   unpack a tar, by default from standard input, which may stay open after the tar's end;
                           every entry DIR/NAME appears whole, unless it exists already
    serve FOLDER           answer requests until standard input ends, so that a login, a start of Python and its
                           imports are paid for once

A request is a line of JSON: ["look", NAME...], ["receive"] and then the tar in chunks, ["agent", CODE, ARGUMENT...] for
`runner.execute.agent` of the code in FOLDER/CODE, or ["run", COMMAND...]. Commands run in FOLDER, if it exists. The
answer is the output in chunks as it comes, and a line `end STATUS MESSAGE` with the last line of what went to stderr. A
chunk is a line with its length and then its bytes; one of length 0 ends a tar.

Standard library alone, in syntax that even a Python that is too old can read, so that it can report its version.
"""

import contextlib
import fcntl
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import traceback
from pathlib import Path

MINIMUM = (3, 9)
_CHUNK = 2**16


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


@contextlib.contextmanager
def owner_only():
    """Keep what is made meanwhile from other users."""
    umask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(umask)


@owner_only()
def receive(folder, **source):
    """Unpack the `source`, as tarfile.open takes it, to a temporary folder, then move each DIR/NAME into place.

    It appears whole, and nothing is replaced. What a killed process left in such a folder is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary, lock = make_temporary(folder)
    try:
        with tarfile.open(**source) as archive:
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


def chunk(data):
    """Bytes as a part of a tar or of an answer."""
    return b"%d\n" % len(data) + data


class Chunks(io.RawIOBase):
    """Output that is written to a stream in chunks, also by several threads."""

    def __init__(self, stream):
        self._stream, self._lock = stream, threading.Lock()

    def writable(self):
        return True

    def write(self, data):
        with self._lock:
            self._stream.write(chunk(data))
            self._stream.flush()
        return len(data)


class Payload:
    """Input that is read from a stream in chunks, until it has `ended` with the one of length 0."""

    def __init__(self, stream):
        self._stream, self._left, self.ended = stream, 0, False

    def read(self, size):
        if not self._left and not self.ended:
            self._left = int(self._stream.readline() or 0)
            self.ended = not self._left
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data

    def skip(self):
        """Read on to the end."""
        while self.read(_CHUNK):
            pass


def serve(folder):
    """Answer the requests of standard input until it ends, or one of them leaves a part of its tar unread."""
    os.environ["PYTHONUTF8"] = "1"
    folder, requests, stream = folder.absolute(), os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a request starts reads no other request,
    os.dup2(2, 1)  # and prints into no answer
    for line in requests:
        request, tar, errors = json.loads(line.decode("utf-8")), Payload(requests), io.StringIO()
        output = io.TextIOWrapper(io.BufferedWriter(Chunks(stream), _CHUNK), encoding="utf-8", errors="surrogateescape")
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = answer(folder, request, tar)
            output.flush()
        message = (errors.getvalue().strip().splitlines() or [""])[-1]
        stream.write(b"end %d %s\n" % (status, message.encode("utf-8", "surrogateescape")))
        stream.flush()
        if request == ["receive"] and not tar.ended:
            return


def answer(folder, request, tar):
    """Do what a request says; returns the exit status of a command that does the same, errors go to stderr."""
    verb, words = request[0], request[1:]
    try:
        if folder.is_dir():
            os.chdir(str(folder))
        if verb == "agent":
            return agent(folder, *words)
        if verb == "run":
            return run(words)
        if verb == "look":
            look(folder, words)
        else:
            receive(folder, fileobj=tar, mode="r|")
            tar.skip()
        return 0
    except SystemExit as end:
        return end.code or 0
    except (OSError, tarfile.TarError) as error:
        print(reason(error, folder), file=sys.stderr)
    except Exception:  # would end a process of its own, not this one, which has other requests to answer
        traceback.print_exc()
    return 1


def agent(folder, code, *arguments):
    """Call `runner.execute.agent` in this process; what it starts finds the same code."""
    path = str(folder / code)
    if path not in sys.path:
        sys.path.insert(0, path)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
    return importlib.import_module("runner.execute.agent").main(arguments)


def run(command):
    """Run a command that reads nothing, and pass its output on."""
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout
            descriptor = process.stdout.fileno()
            try:
                for output in iter(lambda: os.read(descriptor, _CHUNK), b""):
                    sys.stdout.buffer.write(output)
                    sys.stdout.buffer.flush()
            except OSError:  # nobody listens
                process.kill()
                raise
        errors.seek(0)
        sys.stderr.write(errors.read().decode("utf-8", "replace"))
        return process.returncode


def reason(error, folder):
    """What went wrong with a file or an archive, in one line."""
    return "{}: {}".format(getattr(error, "filename", None) or folder, getattr(error, "strerror", None) or error)


def main(verb, folder, *names):
    """Entry point: VERB FOLDER [NAME...]."""
    if sys.version_info < MINIMUM and verb == "receive":
        sys.exit("this Python is too old")
    try:
        if verb == "serve":
            serve(Path(folder))
        elif verb == "look":
            look(Path(folder), names)
        elif names:
            receive(Path(folder), name=names[0])
        else:
            receive(Path(folder), fileobj=sys.stdin.buffer, mode="r|")
    except (OSError, tarfile.TarError) as error:
        sys.exit(reason(error, folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
