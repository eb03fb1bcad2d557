"""What a result depends on besides the recipe: the commit and uncommitted changes, package versions, the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_CODE = ("configs", "recipes", "runner", "scripts")  # what decides a result; a user's own files are not ours to copy
_LARGE = "1m"  # a larger file is recorded as changed, without its content
_PACKAGES = ("hydra-core", "omegaconf", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit of a checkout and whether its code was changed since; None where there is no git."""
    commit = _git(root, "rev-parse", "HEAD")
    return {"commit": commit.decode().strip(), "changed": bool(_changed_code(root))} if commit else None


def uncommitted(root: Path) -> bytes:
    """The code below `root` against its last commit as a patch, new files included; empty if nothing was changed.

    New files are added to a copy of the index, so that the user's own index stays as it is.
    """
    index = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "index")
    if not index or not _changed_code(root):
        return b""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"GIT_INDEX_FILE": shutil.copy(index.decode().strip(), folder)}
        _git(root, "add", "--intent-to-add", "--", *_CODE, env=environment)
        diff = ("-c", f"core.bigFileThreshold={_LARGE}", "diff", "HEAD", "--", *_CODE)
        return _git(root, *diff, env=environment) or b""


def _changed_code(root: Path) -> bytes:
    return _git(root, "status", "--porcelain", "--", *_CODE) or b""


def _git(root: Path, *args: str, env: Mapping[str, str] | None = None) -> bytes | None:
    """The output of a git command; None where git is missing or refuses."""
    try:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, check=True, env={**os.environ, **(env or {})}).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def package_versions() -> dict[str, str | None]:
    """The installed versions of the packages that can change a result; None for one that is missing."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """The host's name, its system and its number of CPUs."""
    return {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()}
