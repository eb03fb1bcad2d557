"""Environments of the programs that the suite compares with, each with packages of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from measure import ROOT

_PACKAGES = {
    "dvc": ("dvc==3.67.1",),
    "transformers": (
        "transformers[serving]==5.23.0",
        "peft==0.21.2",
        "accelerate==1.15.0",
        "datasets>=4,<5",
        "numpy<3",
    ),
}
_NEEDS_TORCH = ("transformers",)


def program(peer: str, name: str = "python") -> Path | None:
    """A program in the environment of a peer, which gets its packages if it lacks them; None if that is impossible."""
    folder = ROOT / ".venv-bench" / peer
    done, packages = folder / ".done", "\n".join(_PACKAGES[peer])
    if not done.is_file() or done.read_text(encoding="utf-8") != packages:
        torch = os.environ.get("TORCH", "torch==2.13.0") if peer in _NEEDS_TORCH else ""
        install = [str(ROOT / ".ci" / "environment.sh"), str(folder), *_PACKAGES[peer]]
        if subprocess.run(install, env={**os.environ, "TORCH": torch}, check=False).returncode:
            print(f"{peer} cannot be installed here (see above): its comparisons are left out", flush=True)
            return None
        done.write_text(packages, encoding="utf-8")
    return folder / "bin" / name
