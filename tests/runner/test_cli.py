"""The command as a user types it: exit status, one line, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli import COMMANDS, main


def runner(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "quickstart", "tp_sise=2"],
        ["run", "quickstart", "parallel.tp_size=3"],
        ["run", "quickstart", "dataset.path=nowhere.jsonl"],
        ["run", "quickstat"],
        ["run", "quickstart", "-m", "tp_sise=1,2"],
        ["run", "quickstart", "--cfg", "job", "+nothing=2"],
        ["plan", "quickstart", "train.epochs=0"],
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, words: list[str]) -> None:
    done = runner(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("runner: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_plan_shows_what_it_derives_and_commands_that_a_shell_takes(tmp_path: Path) -> None:
    done = runner(tmp_path, "plan", "quickstart", "name=my recipe", f"paths.store={tmp_path}/a store")
    assert done.returncode == 0, done.stderr
    assert "[7/7]" in done.stdout
    assert "will run" in done.stdout
    assert "4 query and 1 K/V heads (kv_size_multiplier 1)" in done.stdout
    commands = done.stdout[done.stdout.index("# [1/7]") :]
    assert subprocess.run(["bash", "-n"], input=commands, text=True, check=False).returncode == 0
    assert not list(tmp_path.iterdir())


def test_plan_says_what_must_be_installed_first(tmp_path: Path) -> None:
    """AWS's fork of vLLM is on no AMI: known before nine steps, not at the last of them."""
    done = runner(tmp_path, "plan", "llama3_8b_dolly_trn2", "sdk=neuron_2_26")
    assert "install first" in done.stdout and "no AMI has this vLLM" in done.stdout


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--info", "defaults"], ["--help"]])
def test_hydras_own_flags_work(tmp_path: Path, flags: list[str]) -> None:
    done = runner(tmp_path, "run", "quickstart", "tp_size=4", *flags)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: runner {name}") and COMMANDS[name][1][1:30] in " ".join(shown.split())


def test_only_the_command_that_is_called_is_imported() -> None:
    program = "import sys, runner.cli; runner.cli._parser(['gc']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("runner.commands.")}
    assert loaded == {"runner.commands.arguments", "runner.commands.gc"}
