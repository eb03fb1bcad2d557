"""What the command says and returns where its output, its home or a name cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import cli, startup

ROOT = Path(__file__).parents[2]


def in_shell(folder: Path, line: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess:
    """A line of bash in which `$runner` is the command."""
    environment = {**os.environ, "runner": f"{sys.executable} -m runner", "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


# Through rich, print, Hydra and argparse.
PRINTING = ["plan quickstart", "schema", "run quickstart --cfg job", "--help", "runs --help"]


@pytest.mark.parametrize("words", PRINTING)
def test_a_closed_output_is_as_good_as_dev_null(tmp_path: Path, words: str) -> None:
    done = in_shell(tmp_path, f"$runner {words} >&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("words", PRINTING)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = in_shell(tmp_path, f"$runner {words} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "runner: No space left on device\n")


@pytest.mark.parametrize("words", PRINTING)
def test_a_reader_that_went_away_ends_the_command_in_silence(tmp_path: Path, words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = in_shell(tmp_path, f"$runner {words}", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("where", [">&-", "2>&-", "2>/dev/full"])
def test_bad_input_is_status_2_whatever_cannot_be_written(tmp_path: Path, where: str) -> None:
    done = in_shell(tmp_path, f"$runner plan nowhere {where}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == (1 if where == ">&-" else 0)


def test_a_file_that_is_opened_later_does_not_become_the_closed_output(tmp_path: Path) -> None:
    code = """
import os
from runner import startup
startup.complete_the_process()
other, kept = open("other", "w"), open("kept", "w")  # without that they are files 0 and 1
os.write(1, b"what a library prints")
"""
    done = in_shell(tmp_path, f"{sys.executable} -c '{code}' <&- >&-")
    assert (done.returncode, (tmp_path / "kept").read_text()) == (0, "")


LONG = "a" * 355


@pytest.mark.parametrize(
    "words",
    [
        ["run", LONG], ["show", LONG], ["export", LONG, "x"], ["diff", LONG, "b"], ["serve", LONG],
        *(["plan", "quickstart", f"{key}={LONG}"] for key in ("model.path", "model.tokenizer", "paths.store")),
    ],
)  # fmt: skip
def test_a_name_that_is_too_long_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capfd.readouterr().err
    assert error.startswith("runner: ") and error.count("\n") == 1 and LONG in error


def test_a_user_that_no_passwd_file_has_gets_a_home_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    startup.complete_the_process()
    assert (Path.home(), os.environ["LOGNAME"]) == (Path("/"), "4000000")


@pytest.mark.parametrize("words", ["--cfg job hydra.x=1", "--cfg job hydra/launcher=nowhere"])
def test_what_hydra_refuses_is_one_line(tmp_path: Path, words: str) -> None:
    done = in_shell(tmp_path, f"$runner run quickstart {words}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("runner: command line: ")
