"""The command as a user types it: exit status, one line, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import runner

from runner.cli import COMMANDS, main


@pytest.mark.parametrize(
    "args",
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
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, args: list[str]) -> None:
    done = runner(tmp_path, *args)
    assert done.returncode == 2
    assert done.stderr.startswith("runner: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: runner {name}") and COMMANDS[name][1][1:30] in " ".join(shown.split())


def test_a_command_is_imported_when_it_is_called_and_its_help_needs_nothing_of_it() -> None:
    program = "import sys; from runner.cli import main\ntry: main({!r})\nfinally: print(*sys.modules, file=sys.stderr)"
    loaded = {}
    for words in (("gc", "--help"), ("gc", "--dry-run", "--store", ".")):
        done = subprocess.run([sys.executable, "-c", program.format(words)], capture_output=True, text=True, check=True)
        loaded[words[1]] = {name for name in done.stderr.split() if name.startswith("runner.commands.")}
    assert loaded["--help"] == {"runner.commands.arguments"}
    assert loaded["--dry-run"] == {"runner.commands.arguments", "runner.commands.gc"}


@pytest.mark.parametrize("module", ["records", "control", "export", "gc", "serve.ask"])
def test_commands_that_compose_no_recipe_start_without_hydra(module: str) -> None:
    program = f"import sys, runner.commands.{module}; print('hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
