"""What a result depends on besides the recipe: the commit and uncommitted changes, package versions, the machine."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from runner.record.redaction import SECRET_NAME

_CODE = ("configs", "recipes", "runner", "scripts")  # what decides a result; a user's own files are not ours to copy
# A new file that is not committed is recorded only if it ends in one of these.
_SUFFIXES = (".py", ".yaml", ".yml", ".json", ".jsonl", ".Dockerfile", ".html", ".css", ".js", ".md")
_LARGE = "1m"  # a larger file is recorded as changed, without its content
_PACKAGES = (
    "trainium-recipes", "hydra-core", "omegaconf", "torch", "transformers", "peft", "tokenizers", "safetensors",
    "numpy",
)  # fmt: skip


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit of a checkout and whether its code was changed since; None where `root` is not a checkout.

    A wheel may be installed inside a repository that has nothing to do with it.
    """
    commit = _git(root, "rev-parse", "HEAD") if _is_tracked(root) else None
    return {"commit": commit.decode().strip(), "changed": bool(_changes(root))} if commit else None


def uncommitted(root: Path) -> bytes:
    """The code below `root` against its last commit as a patch, new files included; empty if nothing was changed.

    Git works on a copy of the index: new files are added to it, and `git diff` brings it up to date. Files that may
    hold a secret are left out.
    """
    changes = _changes(root)
    if not changes or not _is_tracked(root):
        return b""
    prefix = _line(root, "--show-prefix")  # of a folder inside the repository
    found = {path.removeprefix(prefix): is_new for path, is_new in changes.items()}
    recorded = [path for path, is_new in found.items() if _is_recorded(path, is_new)]
    if not recorded:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        index = _line(root, "--path-format=absolute", "--git-path", "index")
        environment = {"GIT_INDEX_FILE": shutil.copy2(index, folder)}  # with its time, which git compares
        _git(root, "add", "--intent-to-add", "--", *(path for path in recorded if found[path]), env=environment)
        diff = ("-c", f"core.bigFileThreshold={_LARGE}", "diff", "HEAD", "--relative", "--", *recorded)
        return _git(root, *diff, env=environment) or b""


def _line(root: Path, *question: str) -> str:
    return os.fsdecode(_git(root, "rev-parse", *question) or b"\n")[:-1]


def _changes(root: Path) -> dict[str, bool]:
    """Whether each file that was changed since the commit is new to git; paths as seen from the repository's root."""
    command = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *_CODE)
    entries = (os.fsdecode(entry) for entry in (_git(root, *command) or b"").split(b"\0") if entry)
    return {entry[3:]: entry.startswith("??") for entry in entries}


def _is_tracked(root: Path) -> bool:
    return bool(_git(root, "ls-files", "--", *_CODE))


def _is_recorded(path: str, is_new: bool) -> bool:
    return (path.endswith(_SUFFIXES) or not is_new) and not _may_hold_a_secret(path)


def _may_hold_a_secret(path: str) -> bool:
    """Whether a file is hidden, or is called like one with credentials."""
    parts = Path(path).parts
    named = any(SECRET_NAME.search(part) for part in parts) and not path.endswith(".py")
    return named or any(part.startswith(".") for part in parts)


def _git(root: Path, *args: str, env: Mapping[str, str] | None = None) -> bytes | None:
    """The output of a git command; None where git is missing or refuses.

    Without optional locks: `git status` would refresh the user's index, and leave its lock there if it is killed.
    """
    try:
        command = ["git", "--no-optional-locks", "-C", str(root), "--literal-pathspecs", *args]
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


def user() -> str:
    """The name of the user; their number where it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def machine() -> dict[str, Any]:
    """The host's name, its system and its number of CPUs."""
    return {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()}
