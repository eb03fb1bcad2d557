"""The frame of the stage programs, where their output cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


def in_shell(folder: Path, line: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess:
    """Run a line of bash in `folder`."""
    return subprocess.run(["bash", "-c", line], cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with two programs: prints.py prints more than a pipe holds, writes.py writes a file and logs."""
    write_program(tmp_path / "prints.py", "print('x' * 100_000)")
    write_program(tmp_path / "writes.py", "[pathlib.Path('written').write_text('all of it'), events.log('done')]")
    return tmp_path


def write_program(path: Path, work: str) -> None:
    path.write_text(
        f"import pathlib, sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from common import events, program\n"
        f"sys.exit(program.main(lambda args: {work}, program.parser('')))\n"
    )


@pytest.mark.parametrize("words", ["prints.py", "prints.py --help"])
def test_a_full_output_is_one_line_and_status_1(programs: Path, words: str) -> None:
    done = in_shell(programs, f"{sys.executable} {words} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "prints.py: No space left on device\n")


def test_a_reader_that_went_away_ends_the_program_in_silence(programs: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = in_shell(programs, f"{sys.executable} prints.py", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_output_is_as_good_as_dev_null(programs: Path, closed: str) -> None:
    assert in_shell(programs, f"{sys.executable} prints.py {closed}").returncode == 0
    done = in_shell(programs, f"{sys.executable} writes.py {closed}")
    assert (done.returncode, done.stdout) == (0, "")
    assert (programs / "written").read_text() == "all of it"


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_bad_input_is_status_2_whatever_cannot_be_written(tmp_path: Path, where: str) -> None:
    line = f"{sys.executable} {SCRIPTS}/tokenize_dataset.py --model nowhere {where}"
    assert in_shell(tmp_path, line).returncode == 2


@pytest.mark.parametrize("flag", ["--model", "--input", "--template"])
def test_a_name_that_is_too_long_is_bad_input(tmp_path: Path, flag: str) -> None:
    words = {"--model": ".", "--input": "rows.jsonl", "--template": "{}"} | {flag: "a" * 355}
    (tmp_path / "rows.jsonl").touch()
    flags = " ".join(f"{name} '{value}'" for name, value in words.items())
    line = f"{sys.executable} {SCRIPTS}/tokenize_dataset.py {flags} --seq-len 8 --eval-rows 1 --output out"
    done = in_shell(tmp_path, line)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "a" * 355 in done.stderr
