"""The Python environments of Neuron's releases, without what only a Neuron device needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

# Runs on the release's own packages; the last three are the embedded server's and the tests', which no AMI has.
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


def make(folder: Path, generation: Generation, python: str, torch_index: str) -> Path:
    """The Python of the environment in `folder`, made when it is not there yet."""
    inside, done = folder / "bin" / "python", folder / ".done"
    wanted = "\n".join([generation.torch, *generation.packages, *OUR_OWN])
    if not done.is_file() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        _install_torch(inside, generation.torch, torch_index)
        _pip(inside, *generation.packages, *OUR_OWN)
        done.write_text(wanted)
    return inside


def _install_torch(python: Path, torch: str, index: str) -> None:
    """A build for CPUs where there is one. Known sizes are of torch 2.8 for Python 3.10."""
    if _has_pip(python, f"{torch}+cpu") or _has_pip(python, torch, "--index-url", index):
        return
    print(f"{torch}: no build for CPUs can be had here; installing the one for CUDA: 3 GB to load, 6.4 GB on disk")
    _pip(python, torch)


def _has_pip(python: Path, *words: str) -> bool:
    command = [python, "-m", "pip", "install", "--quiet", "--retries", "0", "--timeout", "15", *words]
    return subprocess.run(command, capture_output=True).returncode == 0


def _pip(python: Path, *words: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *words], check=True)
