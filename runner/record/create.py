"""The record of a run: a folder with what was asked, what was planned, and what happened.

recipe.yaml    the composed recipe          plan.json    the command lines
manifest.json  overrides, code, versions    events.jsonl what happened, live
logs/          output of every step         artifacts/   links to what the steps made
results/       the figures among that: *.json of every artifact, kept when the store is cleared
uncommitted.diff  what the code differs by from the commit in the manifest, if it does
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from runner.compose.recipe import ROOT, Composed
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.execute import files
from runner.plan.model import Plan

_CODE = ("configs", "recipes", "runner", "scripts")  # what decides a result; a user's own files are not ours to copy
_LONGEST_NAME = 48  # characters, of up to 4 bytes each: file systems take 255
_LARGE = "1m"  # a larger file is recorded as changed, without its content
_PACKAGES = ("hydra-core", "omegaconf", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def prepare_folders(recipe: Recipe) -> None:
    """Make the folders of artifacts and records on this machine. Raises RecipeError where that cannot be."""
    paths = {"runs": recipe.paths.runs, **({"store": recipe.paths.store} if recipe.target.kind == "local" else {})}
    folders = {key: Path(path).expanduser().absolute() for key, path in paths.items()}
    for key, folder in folders.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not there.is_dir():
            raise RecipeError(f"paths.{key}: {folder}: {there} is not a folder; name another with paths.{key}=")
    for key, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RecipeError(f"paths.{key}: {folder}: {error.strerror}; name another with paths.{key}=") from None


def create(composed: Composed, plan: Plan, folder: Path | None = None) -> Path:
    """A new run folder, or the new folder `folder`, with everything that is known before the first step."""
    if folder:
        folder.mkdir(parents=True)
    else:
        folder = _new_folder(Path(composed.recipe.paths.runs).absolute(), composed.recipe.name)
    recipe = yaml.safe_dump(dataclasses.asdict(composed.recipe), sort_keys=False)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "plan.json").write_text(_json(plan.as_json()), encoding="utf-8")
    difference = uncommitted(ROOT)
    if difference:
        (folder / "uncommitted.diff").write_bytes(difference)
    (folder / "events.jsonl").touch()
    _finish(folder, _manifest(composed))
    return folder


def _finish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, last and at once: a folder that has one is a record, and whole."""
    files.write_atomic(folder / "manifest.json", _json(manifest))


def file_name(text: str) -> str:
    """What a person called something as a part of paths, in which no shell or scheduler finds a meaning of its own.

    >>> file_name("50%j: my recipe")
    '50-j-my-recipe'
    """
    composed = unicodedata.normalize("NFC", text)  # an accent apart from its letter would count as a blank
    return re.sub(r"[^\w.]+", "-", composed).strip("-.")[:_LONGEST_NAME] or "run"


def _new_folder(runs: Path, name: str) -> Path:
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(name)}"
    for number in range(1, 1000):
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(runs / stem)


def _manifest(composed: Composed) -> dict[str, Any]:
    return {
        "recipe": str(composed.source),
        "overrides": list(composed.overrides),
        "choices": dict(composed.choices),
        "command": sys.argv,
        "git": _git(),
        "python": platform.python_version(),
        "packages": versions(),
        "machine": {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()},
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
    }


def _git() -> dict[str, Any] | None:
    commit = _git_says(ROOT, "rev-parse", "HEAD")
    return {"commit": commit.decode().strip(), "changed": bool(_changed(ROOT))} if commit else None


def _changed(root: Path) -> bytes:
    return _git_says(root, "status", "--porcelain", "--", *_CODE) or b""


def uncommitted(root: Path) -> bytes:
    """The code below `root` against its last commit as a patch, new files included; empty if there is no change.

    New files are put into a copy of the index, so that the user's own stays as it is.
    """
    index = _git_says(root, "rev-parse", "--path-format=absolute", "--git-path", "index")
    if not index or not _changed(root):
        return b""
    with tempfile.TemporaryDirectory() as folder:
        copy = {"GIT_INDEX_FILE": shutil.copy(index.decode().strip(), folder)}
        _git_says(root, "add", "--intent-to-add", "--", *_CODE, env=copy)
        return _git_says(root, "-c", f"core.bigFileThreshold={_LARGE}", "diff", "HEAD", "--", *_CODE, env=copy) or b""


def _git_says(root: Path, *words: str, env: Mapping[str, str] | None = None) -> bytes | None:
    """What git prints; None where there is no git or it refuses."""
    try:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, check=True, env={**os.environ, **(env or {})}).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str | None]:
    """Versions of the packages that can change a result."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
