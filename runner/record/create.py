"""Creates the record of a run: a folder with what was asked for, what was planned, and what happened.

recipe.yaml       the composed recipe            plan.json     the command lines
manifest.json     overrides, code, versions      events.jsonl  what happened, as it happens
logs/             output of every step           artifacts/    links to what the steps made
results/          *.json of every artifact, kept when the store is cleared
uncommitted.diff  the code's changes since the commit in the manifest, if there are any
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shutil
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from runner.compose.composed import Composed
from runner.compose.schema import Recipe
from runner.compose.url_secrets import without_secrets
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.run_folder import EVENTS
from runner.paths import ROOT
from runner.plan.model import Plan
from runner.record import provenance

_INCOMING = ".incoming"  # in the folder of records
_ABANDONED = 3600.0  # seconds; a record is made in much less than one
_LONGEST_NAME = 48  # characters, of up to 4 bytes each: file systems take 255


def prepare_folders(recipe: Recipe, with_store: bool) -> None:
    """Make the folder of records on this machine, and that of artifacts if asked. Raises RecipeError if it cannot."""
    paths = {"runs": recipe.paths.runs, **({"store": recipe.paths.store} if with_store else {})}
    folders = {key: Path(path).expanduser().absolute() for key, path in paths.items()}
    for key, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not existing.is_dir():
            raise RecipeError(f"paths.{key}: {folder}: {existing} is not a folder; name another with paths.{key}=")
    for key, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RecipeError(f"paths.{key}: {folder}: {error.strerror}; name another with paths.{key}=") from None


def create(composed: Composed, plan: Plan, folder: Path | None = None) -> Path:
    """Record everything that is known before the first step, in `folder` or a new folder below paths.runs.

    The record is made aside, synced and renamed: others see it whole or not at all.
    """
    runs = folder.parent if folder else Path(composed.recipe.paths.runs).absolute()
    with incoming(runs) as made:
        _write(made, composed, plan)
        files.sync_tree(made)
        return files.move_new(made, [folder] if folder else _new_folders(runs, composed.recipe.name))


@contextmanager
def incoming(runs: Path) -> Iterator[Path]:
    """A new folder, of which no reader of `runs` takes notice; what killed processes left there is removed."""
    folder = runs / _INCOMING
    folder.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - abandoned.stat().st_mtime > _ABANDONED:
                shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        made = Path(aside) / "record"
        made.mkdir()
        yield made


def _write(folder: Path, composed: Composed, plan: Plan) -> None:
    recipe = yaml.safe_dump(dataclasses.asdict(composed.recipe), sort_keys=False)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "plan.json").write_text(_json(plan.as_json()), encoding="utf-8")
    patch = provenance.uncommitted(ROOT)
    if patch:
        file = folder / "uncommitted.diff"
        file.touch(mode=0o600)  # not the umask's choice: it may hold what nobody thought of
        file.write_bytes(patch)
    (folder / EVENTS).touch()
    (folder / "manifest.json").write_text(_json(_manifest(composed)), encoding="utf-8")


def file_name(text: str) -> str:
    """A name as a part of paths that neither a shell nor a scheduler can misread.

    >>> file_name("50%j: my recipe")
    '50-j-my-recipe'
    """
    composed = unicodedata.normalize("NFC", text)  # an accent apart from its letter would count as a separator
    return re.sub(r"[^\w.]+", "-", composed).strip("-.")[:_LONGEST_NAME] or "run"


def _new_folders(runs: Path, name: str) -> Iterator[Path]:
    """Where a new run may be recorded: runs that start in the same second are numbered."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(name)}"
    yield runs / stem
    yield from (runs / f"{stem}-{number}" for number in range(2, 1000))


def _manifest(composed: Composed) -> dict[str, Any]:
    return {
        "recipe": str(composed.source),
        "overrides": list(composed.overrides),
        "choices": dict(composed.choices),
        "command": [without_secrets(word) for word in sys.argv],
        "git": provenance.git_state(ROOT),
        "python": platform.python_version(),
        "packages": provenance.package_versions(),
        "machine": provenance.machine(),
        "price_per_hour": composed.recipe.hardware.price_per_hour,
        "user": provenance.user(),
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
