"""Copy artifacts and checkpoints to and from a remote store: an s3:// address, or a folder that machines share.

    ADDRESS/artifacts/KEY/manifest.json    size and SHA-256 of each file; written last, read first
    ADDRESS/artifacts/KEY/SHA256           the content of a file
    ADDRESS/checkpoints/KEY/...            the same, of a training that has not finished

So a folder is there complete or not at all, whoever is killed, and machines may push the same one at once: that of the
last one stays. A push that was cut short continues where it ended, and so does a fetch. What is fetched is compared
with its digests.

    python scripts/remote_store.py s3://bucket/store list artifacts/train-3f9a --output found.json
    python scripts/remote_store.py s3://bucket/store push artifacts/train-3f9a store/objects/train-3f9a
    python scripts/remote_store.py s3://bucket/store fetch artifacts/train-3f9a store/incoming/train-3f9a
    python scripts/remote_store.py s3://bucket/store remove checkpoints/train-3f9a

An s3:// address needs the package s3fs, and AWS credentials where AWS's own tools look for them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any

from common import events, program
from common.files import check_free_space, read_json
from common.program import StageFailed
from common.remote_files import RemoteFolder

_MANIFEST = "manifest.json"
_MARK = "remote-store.json"
_VERSION = {"version": 1}
_AT_ONCE = 8  # files that are copied at the same time
_CHUNK = 2**20

_ATTEMPTS = 5  # at a folder in which files vanish: a training removes its older checkpoints

Manifest = Mapping[str, tuple[int, str]]  # size and SHA-256 of each file


class _Damaged(StageFailed):
    """The object `digest` of a remote folder is missing, or has another content."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(problem)
        self.digest = digest


def run(args: argparse.Namespace) -> None:
    """Do what the flags say."""
    args.run(args)


def find(args: argparse.Namespace) -> None:
    """Write which of the names are there, as a JSON list. Marks the store, so that it is known to be writable."""
    remote = RemoteFolder(args.address)
    _mark(remote)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda name: _manifest(remote, f"{name}/") is not None, args.names)
        names = [name for name, there in zip(args.names, found, strict=True) if there]
    args.output.write_text(json.dumps(names), encoding="utf-8")


def _mark(remote: RemoteFolder) -> None:
    with contextlib.suppress(FileNotFoundError):
        if remote.read(_MARK):
            return
    remote.write(_MARK, json.dumps(_VERSION).encode())


def push(args: argparse.Namespace) -> None:
    """Copy a folder there, unless it is there already; with --replace another content takes its place."""
    remote = _of(args.address, args.name)
    before = _manifest(remote)
    if before is not None and not args.replace:
        return
    for attempt in range(_ATTEMPTS):
        try:
            _push(remote, args.folder, args.sums, before or {})
            return
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise


def _push(remote: RemoteFolder, folder: Path, sums: Path | None, before: Manifest) -> None:
    manifest = _manifest_of(folder, read_json(sums) if sums and sums.is_file() else None)
    contents = {digest: (folder / name, size) for name, (size, digest) in manifest.items()}

    def upload(digest: str) -> int:
        path, size = contents[digest]
        if remote.size(digest) != size:  # otherwise a push that was cut short, or another machine, left it
            remote.upload(str(path), digest)
        return size

    _copy(upload, contents, sum(size for _, size in contents.values()))
    remote.write(_MANIFEST, json.dumps({"files": manifest}, indent=1).encode())
    for digest in contents:
        upload(digest)  # again, if another machine has removed it before it could see that manifest
    for digest in _digests(before) - _digests(manifest) - _digests(_manifest(remote) or {}):
        remote.remove(digest)
    remote.remove_partial()


def fetch(args: argparse.Namespace) -> None:
    """Copy a folder from there; files that `folder` has already are kept.

    Raises StageFailed if it is damaged, and removes it then.
    """
    remote, folder = _of(args.address, args.name), args.folder
    manifest = _manifest(remote)
    if manifest is None:
        raise StageFailed(f"{remote.address}: is no longer there")
    for name in manifest:
        _check_name(remote, name)
    missing = {name: entry for name, entry in manifest.items() if not _is_intact(folder / name, *entry)}
    total = sum(size for size, _ in missing.values())
    check_free_space(folder, total, "FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _copy(lambda name: _download(remote, folder / name, *missing[name]), missing, total)
    except _Damaged as damage:
        if _manifest(remote) != manifest:  # another machine has replaced it meanwhile
            return fetch(args)
        remote.remove(_MANIFEST)  # so that it is pushed again
        remote.remove(damage.digest)
        raise StageFailed(f"{remote.address}: {damage}; it was removed") from None


def _download(remote: RemoteFolder, path: Path, size: int, digest: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        remote.download(digest, str(partial))
    except FileNotFoundError:
        raise _Damaged(digest, f"has lost {path.name}") from None
    if not _is_intact(partial, size, digest):
        raise _Damaged(digest, f"the content of {path.name} has changed")
    partial.rename(path)
    return size


def remove(args: argparse.Namespace) -> None:
    """Remove a folder there, if it is there."""
    remote = _of(args.address, args.name)
    manifest = _manifest(remote) or {}
    remote.remove(_MANIFEST)
    for digest in _digests(manifest):
        remote.remove(digest)


def _digests(manifest: Manifest) -> set[str]:
    return {digest for _, digest in manifest.values()}


def _of(address: str, name: str) -> RemoteFolder:
    return RemoteFolder(f"{address.rstrip('/')}/{name}")


def _manifest(remote: RemoteFolder, prefix: str = "") -> Manifest | None:
    """What is there; None if there is none, or one that was cut short."""
    try:
        files = json.loads(remote.read(prefix + _MANIFEST))["files"]
        return {name: (int(size), str(digest)) for name, (size, digest, *_) in files.items()}  # earlier: also a time
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check_name(remote: RemoteFolder, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise StageFailed(f"{remote.address}: its manifest names {name}, which is outside of the folder")


def _manifest_of(folder: Path, sums: Mapping[str, Any] | None) -> Manifest:
    """Of a folder whose `sums` are known, or else of its files without those that are being written."""
    if sums is None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".partial")
        sums = {path.relative_to(folder).as_posix(): (path.stat().st_size, _digest(path)) for path in paths}
    return {name: (size, digest) for name, (size, digest) in sums.items()}


def _is_intact(path: Path, size: int, digest: str) -> bool:
    return path.is_file() and path.stat().st_size == size and _digest(path) == digest


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def _copy(copy: Callable[[str], int], names: Iterable[str], total: int) -> None:
    """Call `copy` for all names, several at once, and report progress in the bytes that it returns."""
    done = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for copied in as_completed([pool.submit(copy, name) for name in names]):
            done += copied.result()
            events.progress(done, total, "byte")


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("address", help="s3://BUCKET/PREFIX, or a folder")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    listing = _verb(verbs, "list", find, "write which names are there")
    listing.add_argument("names", nargs="*", metavar="NAME", help="artifacts/KEY or checkpoints/KEY")
    listing.add_argument("--output", type=Path, required=True, help="JSON file to write")
    pushing = _verb(verbs, "push", push, "copy a folder there")
    _add_name_and_folder(pushing)
    pushing.add_argument("--sums", type=Path, metavar="FILE", help="size and SHA-256 of each file (default: computed)")
    pushing.add_argument("--replace", action="store_true", help="in place of what has the name")
    _add_name_and_folder(_verb(verbs, "fetch", fetch, "copy a folder from there"))
    _verb(verbs, "remove", remove, "remove a folder there").add_argument("name", metavar="NAME")
    return parser


def _verb(verbs, name: str, call: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help, description=call.__doc__, allow_abbrev=False)
    parser.set_defaults(run=call)
    return parser


def _add_name_and_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="artifacts/KEY or checkpoints/KEY")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder on this machine")


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
