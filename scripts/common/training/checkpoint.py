"""Checkpoints that a training killed at any moment continues from, to the very bits it would have reached.

    DIR/checkpoints/step_40/rank_0.pt     a rank's state
    DIR/checkpoints/step_40/complete      written last, once every rank's file is on the disk: the settings' digest

All ranks continue from the newest step that every one of them can read whole.
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
from common.training.parallel import Ranks

_KEPT = 2


_NOT_OF_THE_RESULT = ("checkpoint_every", "log_every")  # flags that do not change the result


def settings_digest(args: argparse.Namespace, paths: Collection[str], content: Mapping[str, Any]) -> str:
    """A digest of all that decides a training's result: its flags but for `paths`, and `content`."""
    left_out = {*paths, *_NOT_OF_THE_RESULT}
    flags = {name: value for name, value in vars(args).items() if name not in left_out}
    return hashlib.sha256(json.dumps({"flags": flags, **content}, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one training in `folder`; `settings` is a digest of everything that decides its result."""

    def __init__(self, folder: Path, ranks: Ranks, settings: str) -> None:
        self._folder, self._ranks, self._settings = folder / "checkpoints", ranks, settings

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save this rank's `state` after `step` steps; all ranks call it together."""
        folder = self._folder / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(state, content)
        _write_durably(folder / f"rank_{self._ranks.rank}.pt", content.getbuffer())
        self._ranks.barrier()
        if self._ranks.rank == 0:
            _write_durably(folder / "complete", self._settings.encode())
            for old in self._steps()[_KEPT:]:
                shutil.rmtree(self._path(old))

    def latest(self) -> dict[str, Any] | None:
        """The newest state that every rank can read, None when there is none; the others are removed."""
        for step in self._steps():
            state, fault = self._read(step)
            fault = self._ranks.first_message(fault)
            if fault is None:
                return state
            if self._ranks.rank == 0:
                events.log(f"checkpoint {self._path(step)} is skipped: {fault}", "warning")
                shutil.rmtree(self._path(step))
            self._ranks.barrier()
        return None

    def remove(self) -> None:
        """Remove them all, once the training has its result."""
        if self._ranks.rank == 0 and self._folder.is_dir():
            shutil.rmtree(self._folder)

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step}"

    def _steps(self) -> list[int]:
        """The steps that have a folder, the newest first."""
        names = (path.name.removeprefix("step_") for path in self._folder.glob("step_*"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _read(self, step: int) -> tuple[dict[str, Any] | None, str | None]:
        """This rank's state, or None and why it cannot be continued from."""
        path, marker = self._path(step) / f"rank_{self._ranks.rank}.pt", self._path(step) / "complete"
        if not marker.is_file():
            return None, "it was not finished"
        if marker.read_text(encoding="utf-8") != self._settings:
            return None, "it belongs to other settings, data or weights"
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            return None, f"{path.name}: {error}"
        if damaged:
            return None, f"{path.name} is damaged"
        return torch.load(path, weights_only=True), None


def _write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write `path` so that after a crash it is there whole or not at all."""
    aside = path.with_suffix(".partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
