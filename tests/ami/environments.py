"""The Python environments of Neuron's releases, without what only a Neuron device needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# Of the embedded server and the tests: no AMI has them.
OUR_OWN = ("starlette", "uvicorn", "pytest")


class Generation(NamedTuple):
    """The Pythons of a release, best first, its torch, and its other packages as pip requirements."""

    pythons: tuple[str, ...]
    torch: str
    packages: tuple[str, ...]


GENERATIONS = {
    # NxD training, 2.26 to 2.31: its modelling code needs this transformers. No peft.
    "2.29": Generation(("3.10",), "torch==2.8.0", ("transformers==4.48.0", "huggingface_hub<1", "numpy<2")),
    # optimum-neuron 0.4.5's pins.
    "optimum": Generation(
        ("3.10", "3.11"), "torch==2.8.0", ("transformers==4.57.6", "peft==0.17.0", "accelerate==1.8.1", "numpy<2")
    ),
    # Native PyTorch.
    "2.33": Generation(("3.12", "3.13", "3.14"), "torch==2.14.1", ("transformers>=5.24", "numpy>=2")),
}


def python_of(versions: tuple[str, ...]) -> str | None:
    """The first of these Pythons that starts here, by its name on PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for version in versions:
        name = f"python{version}"
        for path in [shutil.which(name), *sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))]:
            if path and subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
                return str(path)
    return None


def make(folder: Path, generation: Generation, python: str) -> Path:
    """The Python of the environment in `folder`, made or brought up to date."""
    variables = {**os.environ, "PYTHON": python, "TORCH": generation.torch}
    command = [ROOT / ".ci" / "environment.sh", folder, *generation.packages, *OUR_OWN]
    subprocess.run(command, env=variables, check=True)
    return folder / "bin" / "python"
