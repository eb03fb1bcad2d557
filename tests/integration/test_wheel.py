"""The wheel holds everything: it runs recipes in an empty folder, without a checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from runner.paths import ROOT
from runner.targets import bundle
from tests.ami.environments import python_of

SHORT = [
    "train.max_steps=2", "dataset.train_rows=40", "evaluate.examples=8", "evaluate.max_new_tokens=4",
    "serve.min_equal=0", "train.learning_rate=0.01",
]  # fmt: skip


def run(*command: object, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, and the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    packages = [path for path in sys.path if path.endswith("site-packages")]
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "packages.pth").write_text("\n".join(packages))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    return python.parent


def test_quickstart_runs_to_its_end_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    runner = environment / "runner"
    assert "COMMAND" in run(runner, "--help", cwd=tmp_path)
    assert f"{environment.parent}/lib" in run(runner, "plan", "quickstart", cwd=tmp_path)
    assert "adapter" in run(runner, "run", "quickstart", *SHORT, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "store"]
    [manifest] = tmp_path.glob("runs/*/manifest.json")
    assert json.loads(manifest.read_text())["git"] is None


def test_the_code_that_it_copies_to_another_machine_is_that_of_a_checkout(environment: Path, tmp_path: Path) -> None:
    program = "import sys\nfrom runner.targets import bundle\nwith bundle.archive(sys.stdout.buffer) as tar:\n    "
    with (tmp_path / "code.tar").open("wb") as file:
        command = [environment / "python", "-c", f"{program}bundle.write_code(tar)"]
        subprocess.run(command, cwd=tmp_path, stdout=file, check=True)
    with tarfile.open(tmp_path / "code.tar") as archive:
        archive.extractall(tmp_path)
    code = tmp_path / bundle.code_name()
    assert {str(file.relative_to(code)) for file in code.rglob("*") if file.is_file()} == set(bundle.code_files())
    assert "Start, follow and stop" in run(sys.executable, "-m", "runner.execute.agent", "--help", cwd=code)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_it_installs_and_plans_on_every_python(wheel: Path, tmp_path: Path, version: str) -> None:
    python = python_of((version,))
    if not python:
        pytest.skip(f"there is no Python {version} on this machine")
    run(python, "-m", "venv", tmp_path / "venv")
    run(tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    assert "train LoRA" in run(tmp_path / "venv" / "bin" / "runner", "plan", "quickstart", cwd=tmp_path)
