"""Checkpoints: a training killed at any time resumes from them and reaches the same result, bit for bit.

    DIR/checkpoints/step_40/rank_0.pt     the state of a rank
    DIR/checkpoints/step_40/complete      format and digest of the settings, written once all rank files are on disk

All ranks resume from the newest step whose files are intact on every rank.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from common import events
from common.program import BadInput
from common.training.parallel import Ranks

_KEPT = 2
_FORMAT = "2"  # of `complete`; in the first one, a digest alone, weights were identified by the time of their files
_NO_EFFECT_ON_RESULT = ("checkpoint_every", "log_every")


def settings_digest(args: argparse.Namespace, paths: Collection[str], content: Mapping[str, Any]) -> str:
    """A digest of everything that affects the result of a training: its flags except `paths`, and `content`."""
    ignored = {*paths, *_NO_EFFECT_ON_RESULT}
    flags = {name: value for name, value in vars(args).items() if name not in ignored}
    return hashlib.sha256(json.dumps({"flags": flags, **content}, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of a training in `folder`; `settings` is a digest of everything that affects its result."""

    def __init__(self, folder: Path, ranks: Ranks, settings: str) -> None:
        self._folder, self._ranks, self._marker = folder / "checkpoints", ranks, f"{_FORMAT} {settings}"

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save this rank's `state` after `step` steps; to be called on all ranks."""
        folder = self._folder / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(state, content)
        _write_durably(folder / f"rank_{self._ranks.rank}.pt", content.getbuffer())
        self._ranks.barrier()
        if self._ranks.rank == 0:
            _write_durably(folder / "complete", self._marker.encode())
            _sync_folder(self._folder)
            for old in self._steps()[_KEPT:]:
                shutil.rmtree(self._path(old))
            events.checkpoint(step)

    def latest(self) -> dict[str, Any] | None:
        """The newest state that every rank can read, or None. Removes newer checkpoints that cannot be used.

        Raises BadInput for a checkpoint of an earlier version, which is kept.
        """
        for step in self._steps():
            state, fault = self._read(step)
            fault = self._ranks.first_message(fault)
            if fault is None:
                return state
            if self._ranks.rank == 0:
                events.log(f"ignoring checkpoint {self._path(step)}: {fault}", "warning")
                shutil.rmtree(self._path(step))
            self._ranks.barrier()
        return None

    def remove(self) -> None:
        """Remove all checkpoints; called when the training has finished."""
        if self._ranks.rank == 0 and self._folder.is_dir():
            shutil.rmtree(self._folder)

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step}"

    def _steps(self) -> list[int]:
        """The steps that have a folder, newest first."""
        names = (path.name.removeprefix("step_") for path in self._folder.glob("step_*"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _read(self, step: int) -> tuple[dict[str, Any] | None, str | None]:
        """(state of this rank, None), or (None, reason why it cannot be used)."""
        path, marker = self._path(step) / f"rank_{self._ranks.rank}.pt", self._path(step) / "complete"
        if not marker.is_file():
            return None, "it is incomplete"
        content = marker.read_text(encoding="utf-8")
        if " " not in content:
            raise BadInput(
                f"{self._path(step)}: an earlier version of this program made this checkpoint and did not record which "
                "weights it is for; finish the training with that version, or train into another --output"
            )
        if content != self._marker:
            return None, "it was made with other settings, data or weights"
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            return None, f"{path.name}: {error}"
        if damaged:
            return None, f"{path.name} is damaged"
        return torch.load(path, weights_only=True), None


def _write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write `path` so that after a crash it is either complete or does not exist."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Have the names in a folder survive a crash."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
