"""A plan as shell commands that can be pasted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runner.plan.model import Plan, Step
from runner.plan.text import command_line, shell


def step(store: Path, cached: bool = True) -> Step:
    program = "import pathlib, sys; pathlib.Path(sys.argv[1], 'made').write_text(sys.argv[3])"
    args = ("-c", program, str(store / "partial" / "train-1"), "--text", "it's a $HOME")
    return Step("train", "train it", "train-1", (sys.executable, *args), {}, cached, False, 1, 1, None, {}, ())


def test_every_option_has_a_line_and_its_value_is_quoted(tmp_path: Path) -> None:
    assert command_line(step(tmp_path)).splitlines()[-1] == """    --text 'it'"'"'s a $HOME'"""


def test_the_script_publishes_a_complete_artifact_and_skips_it_afterwards(tmp_path: Path) -> None:
    script = shell(Plan("recipe", str(tmp_path), (step(tmp_path),), {}))
    made = tmp_path / "objects" / "train-1" / "made"
    subprocess.run(["bash", "-c", script], check=True)
    assert made.read_text() == "it's a $HOME"
    made.write_text("kept")
    subprocess.run(["bash", "-c", script], check=True)
    assert made.read_text() == "kept"
