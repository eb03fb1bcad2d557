"""Copy files and folders from S3.

    python scripts/download.py --copy s3://bucket/rows.jsonl 0/rows.jsonl LISTING --output copies

LISTING is the SHA-256 of what was listed there when the plan was made: something else is refused. A copy that was cut
short continues where it ended. This needs the package s3fs, and AWS credentials where AWS's own tools look for them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from common import events, program
from common.files import check_free_space
from common.program import BadInput, StageFailed
from common.remote_files import RemoteFolder

_AT_ONCE = 8  # files that are copied at the same time


def run(args: argparse.Namespace) -> None:
    """Check that everything is there as it was listed, then copy it."""
    copies = [copy for address, name, listing in args.copy for copy in _copies(address, args.output / name, listing)]
    missing = [copy for copy in copies if not (copy[2].is_file() and copy[2].stat().st_size == copy[3])]
    total = sum(size for *_, size in missing)
    check_free_space(args.output, total)
    done = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for copied in as_completed([pool.submit(_download, *copy) for copy in missing]):
            done += copied.result()
            events.progress(done, total, "byte")


def _copies(address: str, target: Path, listing: str) -> list[tuple[RemoteFolder, str, Path, int]]:
    """Of each file at an address: where it is, its name there, where it goes, and its size in bytes."""
    parent, _, name = address.rpartition("/")
    remote = RemoteFolder(parent)
    files = remote.listing(name)
    if not files:
        raise BadInput(f"{address}: no such file or folder")
    if _digest(files) != listing:
        raise BadInput(f"{address}: has changed since the run was planned; run the command again")
    return [
        (remote, f"{name}/{path}" if path else name, target / path if path else target, size)
        for path, (size, _) in files.items()
    ]


def _digest(files: dict[str, tuple[int, str]]) -> str:
    """As `listing` of runner/plan/elsewhere.py."""
    named = sorted([path, f"{size} {tag}"] for path, (size, tag) in files.items())
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _download(remote: RemoteFolder, name: str, path: Path, size: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    remote.download(name, str(partial))
    if partial.stat().st_size != size:
        raise StageFailed(f"{remote.address}/{name}: has changed meanwhile; run the command again")
    partial.rename(path)
    return size


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--copy", nargs=3, action="append", required=True, metavar=("ADDRESS", "NAME", "LISTING"),
                        help="what to copy, its path in OUTPUT, and what was listed there")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
