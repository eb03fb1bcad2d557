"""What travels to another machine: our code, files that the recipe names, and the record of the run.

Code and files lie there under the digest of their content, so that they travel once.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

from runner.compose.recipe import ROOT
from runner.execute.run_folder import HUB_TOKENS, SECRETS
from runner.plan import fingerprint
from runner.record.runs import Run

_EXECUTOR = ("__init__.py", "execute/**/*.py")
_RECORD = ("recipe.yaml", "manifest.json", "plan.json", "uncommitted.diff")


def code_files() -> Iterator[Path]:
    """The files of ours that run on another machine."""
    yield from (file for name in _EXECUTOR for file in sorted((ROOT / "runner").glob(name)))
    yield from sorted(file for suffix in ("py", "json") for file in (ROOT / "scripts").rglob(f"*.{suffix}"))


@cache
def code_name() -> str:
    """Where the code lies on another machine: code/DIGEST."""
    texts = (text for file in code_files() for text in (str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")))
    return f"code/{fingerprint.hash_text(*texts)[:16]}"


def entry(there: str) -> str:
    """What of a carried path is there whole or not at all."""
    return "/".join(Path(there).parts[:2])


def size(carried: Mapping[str, str]) -> int:
    """Of files that are carried, in bytes."""
    return sum(file.stat().st_size for here in carried.values() for file in _files(Path(here)))


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def write_code(archive: tarfile.TarFile) -> None:
    """Add our code to a tar, under its name."""
    for file in code_files():
        archive.add(file, f"{code_name()}/{file.relative_to(ROOT)}")


def write_carried(archive: tarfile.TarFile, carried: Mapping[str, str]) -> None:
    """Add files and folders of this machine: path there, path here."""
    for there, here in carried.items():
        archive.add(here, there, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name.startswith(".") else entry


def write_run(archive: tarfile.TarFile, run: Run, there: str) -> None:
    """Add the record of a run that has not begun, and the secrets that it needs."""
    write_record(archive, run, there)
    found = secrets(run.plan)
    if found:
        add(archive, f"{there}/{SECRETS}", json.dumps(found).encode())


def write_record(archive: tarfile.TarFile, run: Run, there: str) -> None:
    """Add the record of a run that has not begun."""
    for name in _RECORD:
        if (run.folder / name).is_file():
            archive.add(run.folder / name, f"{there}/{name}")
    add(archive, f"{there}/events.jsonl", b"")


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file that its owner alone can read."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def secrets(plan: Mapping[str, Any]) -> dict[str, str]:
    """The hub's token, for a plan that asks the hub: from the environment here into that of the steps there."""
    return {name: os.environ[name] for name in HUB_TOKENS if asks_hub(plan) and os.environ.get(name)}


def asks_hub(plan: Mapping[str, Any]) -> bool:
    """Whether a plan (as in plan.json) reads a model or data from the hub."""
    return any("--hub" in step["argv"] for step in plan["steps"])


def archive(stream: IO[bytes]) -> tarfile.TarFile:
    """A tar that is written as it is made; links to files become files."""
    return tarfile.open(fileobj=stream, mode="w|", dereference=True, bufsize=2**20)
