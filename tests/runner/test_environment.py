"""How `make setup` and its kin make an environment, by a Python that only notes what venv and pip are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "environment.sh"
OWN = "torch==2.13.0+cpu"  # what pip finds by its own settings
PYTORCH = f"--index-url https://index.test/cpu {OWN}"
PYPI = "torch==2.13.0"

# Does for real what -c and - ask of it. Of `-m venv` and `-m pip` it notes the words; pip fails for those in `fails`.
NOTING = """#!/bin/bash
here={here}
case "$1 $2" in
"-m venv") echo "venv" >>$here/notes; mkdir -p "$3/bin" "$3/lib"; cp "$0" "$3/bin/python" ;;
"-m pip") shift 6; echo "$*" >>$here/notes; ! grep -qxF -- "$*" $here/fails ;;
*) PYTHONPATH=$here/modules exec {python} "$@" ;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Its folder takes `modules`, which go before the standard library's."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "fails").touch()
    (tmp_path / "notes").touch()
    path = tmp_path / "python"
    path.write_text(NOTING.format(here=tmp_path, python=f"{sys.executable} -S"))
    path.chmod(0o755)
    return path


def make(python: Path | str, folder: Path, torch: str = "torch==2.13.0") -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHON": str(python),
        "TORCH": torch,
        "TORCH_INDEX": "https://index.test/cpu",
    }
    command = [SCRIPT, folder, "--editable", "."]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()


def test_an_environment_is_made_with_torch_first(tmp_path: Path, python: Path) -> None:
    done = make(python, tmp_path / "made")
    assert (done.returncode, done.stderr) == (0, "")
    assert notes(tmp_path) == ["venv", OWN, "--editable ."]
    assert not (tmp_path / "made" / ".unfinished").exists()


@pytest.mark.parametrize(
    ("fails", "tried", "told"),
    [([OWN], [OWN, PYTORCH], ""), ([OWN, PYTORCH], [OWN, PYTORCH, PYPI], "about 5 GB")],
)
def test_torch_is_built_for_cpus_where_that_can_be_had(tmp_path: Path, python: Path, fails, tried, told) -> None:
    (tmp_path / "fails").write_text("\n".join(fails))
    done = make(python, tmp_path / "made")
    assert done.returncode == 0
    assert notes(tmp_path) == ["venv", *tried, "--editable ."]
    assert told in done.stdout
    assert bool(told) == bool(done.stdout)


def test_modules_are_compiled_but_those_that_cannot_be(tmp_path: Path, python: Path) -> None:
    make(python, tmp_path / "made")
    (tmp_path / "made" / "lib" / "good.py").write_text("")
    (tmp_path / "made" / "lib" / "old.py").write_text("print 'Python 2'")
    done = make(python, tmp_path / "made")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [file.name.partition(".")[0] for file in (tmp_path / "made" / "lib").rglob("*.pyc")] == ["good"]


def test_a_torch_that_is_there_is_kept(tmp_path: Path, python: Path) -> None:
    there = tmp_path / "modules" / "torch-2.13.0+cpu.dist-info"
    there.mkdir()
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n")
    assert make(python, tmp_path / "made").returncode == 0
    assert notes(tmp_path) == ["venv", "--editable ."]
    assert make(python, tmp_path / "other", torch="torch==2.8.0").returncode == 0
    assert "torch==2.8.0+cpu" in notes(tmp_path)


def test_an_environment_without_torch(tmp_path: Path, python: Path) -> None:
    assert make(python, tmp_path / "made", torch="").returncode == 0
    assert notes(tmp_path) == ["venv", "--editable ."]


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("sitecustomize", "import sys; sys.version_info = (3, 9)", "is Python 3.9, and 3.10 or newer is needed"),
        ("ensurepip", "raise ImportError", "cannot make environments; install python3."),
        ("venv", "raise ImportError", "cannot make environments; install python3."),
    ],
)  # fmt: skip
def test_a_python_that_will_not_do_is_one_line(tmp_path: Path, python: Path, module, text, said) -> None:
    (tmp_path / "modules" / f"{module}.py").write_text(text)
    python.write_text(python.read_text().replace(" -S ", " "))  # -S leaves out sitecustomize
    refused(make(python, tmp_path / "made"), said, tmp_path / "made")


def test_a_python_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    refused(make("no-such-python", tmp_path / "made"), "no-such-python does not run; name a Python", tmp_path / "made")


def refused(done: subprocess.CompletedProcess[str], said: str, folder: Path) -> None:
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not folder.exists()


def test_what_cannot_be_made_leaves_no_folder(tmp_path: Path, python: Path) -> None:
    (tmp_path / "fails").write_text("--editable .")
    assert make(python, tmp_path / "made").returncode == 1
    assert not (tmp_path / "made").exists()


def test_an_environment_that_was_interrupted_is_made_anew(tmp_path: Path, python: Path) -> None:
    half = tmp_path / "made" / "half a package"
    half.mkdir(parents=True)
    (tmp_path / "made" / ".unfinished").touch()
    assert make(python, tmp_path / "made").returncode == 0
    assert notes(tmp_path)[0] == "venv"
    assert not half.exists()


def test_an_update_that_fails_leaves_the_environment_as_it_was(tmp_path: Path, python: Path) -> None:
    make(python, tmp_path / "made")
    (tmp_path / "fails").write_text("--editable .")
    assert make(python, tmp_path / "made").returncode == 1
    (tmp_path / "fails").write_text("")
    assert make(python, tmp_path / "made").returncode == 0
    assert notes(tmp_path).count("venv") == 1


def test_an_update_that_is_killed_is_made_anew(tmp_path: Path, python: Path) -> None:
    make(python, tmp_path / "made")
    within = tmp_path / "made" / "bin" / "python"
    healthy = within.read_text()
    within.write_text(healthy.replace('"-m pip") ', '"-m pip") kill -KILL $PPID; '))
    assert make(python, tmp_path / "made").returncode == -9
    assert make(python, tmp_path / "made").returncode == 0
    assert notes(tmp_path).count("venv") == 2
