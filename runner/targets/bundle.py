"""What is copied to another machine: our code, files that the recipe names, and the record of the run.

Code and files are stored under the digest of their content, so each is copied once.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

from runner.execute.run_folder import HUB_TOKENS, SECRETS
from runner.paths import PACKAGE, SCRIPTS
from runner.plan import fingerprint
from runner.record.runs import Run

_EXECUTOR = ("__init__.py", "execute/**/*.py")
_RECORD = ("recipe.yaml", "manifest.json", "plan.json", "uncommitted.diff")
_PART = 63 * 2**10  # bytes: two packets of SSH with its length; tarfile and Paramiko copy the rest of a part many times


def code_files() -> dict[str, Path]:
    """Our files that run on another machine, by their path in the folder of our code there."""
    executor = (file for name in _EXECUTOR for file in sorted(PACKAGE.glob(name)))
    programs = sorted(file for suffix in ("py", "json") for file in SCRIPTS.rglob(f"*.{suffix}"))
    return {
        **{f"runner/{file.relative_to(PACKAGE)}": file for file in executor},
        **{f"scripts/{file.relative_to(SCRIPTS)}": file for file in programs},
    }


@cache
def code_name() -> str:
    """The folder of our code on another machine: code/DIGEST."""
    texts = (text for path, file in code_files().items() for text in (path, file.read_text(encoding="utf-8")))
    return f"code/{fingerprint.hash_text(*texts)[:16]}"


def entry(remote_path: str) -> str:
    """The leading folders of a carried path; they appear on the other machine at once, with all their content."""
    return "/".join(Path(remote_path).parts[:2])


def size(carried: Mapping[str, str]) -> int:
    """Bytes of carried files."""
    return sum(file.stat().st_size for path in carried.values() for file in _files(Path(path)))


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def write_code(archive: tarfile.TarFile) -> None:
    """Add our code to a tar, below `code_name()`."""
    for path, file in code_files().items():
        archive.add(file, f"{code_name()}/{path}")


def write_carried(archive: tarfile.TarFile, carried: Mapping[str, str]) -> None:
    """Add files and folders of this machine to a tar; `carried` is remote path → local path."""
    for remote_path, local_path in carried.items():
        archive.add(local_path, remote_path, filter=_skip_hidden)


def _skip_hidden(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name.startswith(".") else entry


def write_run(archive: tarfile.TarFile, run: Run, folder: str) -> None:
    """Add the record of a run that has not begun, and the secrets that it needs."""
    write_record(archive, run, folder)
    tokens = secrets(run.plan)
    if tokens:
        add(archive, f"{folder}/{SECRETS}", json.dumps(tokens).encode())


def write_record(archive: tarfile.TarFile, run: Run, folder: str) -> None:
    """Add the record of a run that has not begun."""
    for name in _RECORD:
        if (run.folder / name).is_file():
            archive.add(run.folder / name, f"{folder}/{name}")
    add(archive, f"{folder}/events.jsonl", b"")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file that only its owner can read."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def secrets(plan: Mapping[str, Any]) -> dict[str, str]:
    """Variables of this environment with the hub's token, where a plan reads from the hub."""
    return {name: os.environ[name] for name in HUB_TOKENS if asks_hub(plan) and os.environ.get(name)}


def asks_hub(plan: Mapping[str, Any]) -> bool:
    """Whether a plan (as in plan.json) reads a model or data from the hub."""
    return any("--hub" in step["argv"] for step in plan["steps"])


def archive(stream: IO[bytes]) -> tarfile.TarFile:
    """A tar that is streamed while it is made; links to files become files."""
    parts: Any = {"bufsize": _PART, "copybufsize": _PART}  # types of tarfile.open leave the second out
    return tarfile.open(fileobj=stream, mode="w|", dereference=True, **parts)
