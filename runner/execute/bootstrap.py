"""What a machine that has nothing of ours is asked first: its Python gets this file as text, `python3 -c TEXT VERB`.

    look FOLDER NAME...    print as JSON: the version of this Python, free bytes, and which names of FOLDER are there
    receive FOLDER [TAR]   unpack a tar, by default from standard input, which may stay open after its end;
                           every entry DIR/NAME appears whole, or is there already

Standard library alone, and syntax that an old Python reads well enough to say that it is too old.
"""

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

MINIMUM = (3, 9)


def look(folder, names):
    """Print what is here."""
    there = next(parent for parent in [folder, *folder.resolve().parents] if parent.is_dir())
    found = {
        "python": list(sys.version_info[:3]),
        "free": shutil.disk_usage(str(there)).free,
        "there": [name for name in names if (folder / name).exists()],
    }
    print(json.dumps(found))


def receive(folder, names):
    """Unpack aside, then move every second level into place: nobody sees half of it, nothing is replaced."""
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="incoming-", dir=str(folder)))
    try:
        with tarfile.open(names[0]) if names else tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            archive.extractall(str(aside))
        for arrived in aside.glob("*/*"):
            place = folder / arrived.relative_to(aside)
            place.parent.mkdir(exist_ok=True)
            try:
                if not place.exists():
                    arrived.rename(place)
            except OSError:
                if not place.exists():  # else another who brought the same was faster
                    raise
    finally:
        shutil.rmtree(str(aside), ignore_errors=True)


def main(verb, folder, *names):
    if sys.version_info < MINIMUM and verb != "look":
        sys.exit("this Python is too old")
    try:
        look(Path(folder), names) if verb == "look" else receive(Path(folder), names)
    except (OSError, tarfile.TarError) as error:
        sys.exit("{}: {}".format(getattr(error, "filename", None) or folder, getattr(error, "strerror", None) or error))


if __name__ == "__main__":
    main(*sys.argv[1:])
