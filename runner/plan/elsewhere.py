"""Models and data that do not lie on this machine: `target:/fsx/models/llama` or `s3://bucket/llama` in a recipe.

Nothing is copied here. The target says what lies there (`runner.execute.survey`), `runner.plan.object_storage` lists
what is on S3, and a Preview keeps it in a temporary folder of this machine: files at the same paths and of the same
sizes, with the content that checks read and zeros instead of the rest. The checks and the stages then read a recipe
with the preview's paths.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from runner.compose.schema import Recipe, Target
from runner.errors import RecipeError

SCHEME = "target:"
S3 = "s3://"
S3_FOLDER = "/s3:/"  # where previews keep what is on S3, as if it were a folder of the target


class Preview:
    """What is known of the files of one target, in this process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="runner-")
        self._digests: dict[Path, str] = {}
        self.known: set[str] = set()

    @property
    def root(self) -> Path:
        """The folder that stands for / of the target."""
        return Path(self._folder.name).resolve()

    def add(self, lines: Iterable[bytes], named: Mapping[str, str], where: str) -> None:
        """Keep a report of `runner.execute.survey` about paths, each `named` by a key of the recipe.

        Raises RecipeError for a path at which nothing is.
        """
        for entry in map(json.loads, filter(None, lines)):
            if "missing" in entry:
                path = entry["missing"]
                raise RecipeError(f"{named[path]}: {SCHEME}{path}: no such file or folder on {where}")
            if "folder" in entry:
                self.path(entry["folder"]).mkdir(parents=True, exist_ok=True)
            else:
                self._add_file(**entry)
        self.known |= set(named)

    def _add_file(self, path: str, size: int, digest: str, content: str) -> None:
        here = self.path(path)
        here.parent.mkdir(parents=True, exist_ok=True)
        if here.write_bytes(zlib.decompress(base64.b64decode(content))) < size:
            _beginnings.add(here)
        os.truncate(here, size)
        self._digests[here] = digest

    def path(self, there: str) -> Path:
        """Where a path of the target is in the preview."""
        return self.root / there.lstrip("/")

    def there(self, here: Path) -> str | None:
        """The path on the target, or the address on S3, of one in the preview; None for any other path."""
        if not here.is_relative_to(self.root):
            return None
        path = f"/{here.relative_to(self.root)}"
        return S3 + path[len(S3_FOLDER) :] if path.startswith(S3_FOLDER) else path

    def path_of_object(self, address: str) -> Path:
        """Where what has an s3:// address is in the preview."""
        return self.path(S3_FOLDER + address[len(S3) :])

    def digest(self, here: Path) -> str:
        """The digest of the content that a file has on the target."""
        return self._digests[here]

    def listing(self, address: str) -> str:
        """A hash of the names, sizes and ETags of what has an s3:// address, as scripts/download.py computes it."""
        folder = self.path_of_object(address)
        files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
        named = sorted([str(file.relative_to(folder)).removeprefix("."), self.digest(file)] for file in files)
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def as_written(self, text: str) -> str:
        """A message with the paths that a recipe has for those of the preview."""
        return text.replace(f"{self.root}{S3_FOLDER}", S3).replace(f"{self.root}/", f"{SCHEME}/")


@contextmanager
def as_written(preview: Preview | None) -> Iterator[None]:
    """Have a RecipeError name paths as the recipe does."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(preview.as_written(str(error)) if preview else str(error)) from error


@cache
def _preview(target: str) -> Preview:
    return Preview()


def preview_of(target: Target) -> Preview:
    """The preview of a target: trials of a sweep ask for the same files."""
    return _preview(repr(target))


def path_here(path: str, target: Target) -> Path | None:
    """Where a file or folder of a recipe can be read on this machine; None if no plan asked for it in this process."""
    return _located.get((repr(target), path)) if path.startswith((SCHEME, S3)) else Path(path).expanduser()


def is_whole(here: Path) -> bool:
    """Whether a file has its content here: that of a large one elsewhere is zeros after its beginning."""
    return here not in _beginnings


def named(recipe: Recipe) -> dict[str, str]:
    """The paths on the target that a recipe names, each with its key. Raises RecipeError for one that is relative."""
    found: dict[str, str] = {}

    def collect(key: str, path: str) -> str:
        if not path.startswith("/"):
            raise RecipeError(f"{key}: {SCHEME}{path}: must be absolute, such as {SCHEME}/fsx/models/llama")
        found[path] = key
        return path

    _with_paths(recipe, SCHEME, collect)
    return found


def on_s3(recipe: Recipe) -> dict[str, str]:
    """The s3:// addresses that a recipe names, each with its key."""
    found: dict[str, str] = {}

    def collect(key: str, path: str) -> str:
        found[S3 + path.rstrip("/")] = key
        return path

    _with_paths(recipe, S3, collect)
    return found


def replaced(recipe: Recipe, path_of: Callable[[str], str], scheme: str = SCHEME) -> Recipe:
    """The recipe with paths of this machine instead of those on the target or on S3, `path_of` them."""

    def locate(key: str, path: str) -> str:
        here = path_of(path)
        _located[repr(recipe.target), f"{scheme}{path}"] = Path(here)
        return here

    return _with_paths(recipe, scheme, locate)


def _with_paths(recipe: Recipe, scheme: str, path_of: Callable[[str, str], str]) -> Recipe:
    """The recipe with other paths instead of those of a `scheme`; `path_of` gets the key and the path without it."""

    def new(section: str, name: str) -> object:
        def one(value: str) -> str:
            return path_of(f"{section}.{name}", value[len(scheme) :]) if value.startswith(scheme) else value

        value = getattr(getattr(recipe, section), name)
        return list(map(one, value)) if isinstance(value, list) else value and one(value)

    sections = {
        section: dataclasses.replace(getattr(recipe, section), **{name: new(section, name) for name in names})
        for section, names in _KEYS.items()
    }
    return dataclasses.replace(recipe, **sections)


_located: dict[tuple[str, str], Path] = {}  # by target and path of a recipe
_beginnings: set[Path] = set()  # files of previews that lack the rest
_KEYS = {"model": ("path", "tokenizer"), "dataset": ("path", "eval_path"), "train": ("init_adapter",)}
