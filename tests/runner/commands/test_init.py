"""A project of one's own: what is printed next works as printed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from runner.cli import main


def make(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Make the project `my project`; returns the commands that are printed."""
    assert main(["init", "my project"]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


def test_the_next_steps_work_as_printed(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    *looks, run = make(capsys)
    short = "dataset.train_rows=40 train.max_steps=2 evaluate=none serve=none"
    script = "\n".join([*looks, run.replace("run first", f"run first {short}"), "make plan"])
    of_make = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS")  # of the make that runs these tests
    env = {name: value for name, value in os.environ.items() if name not in of_make}
    done = subprocess.run(["bash", "-e"], env=env, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train LoRA of rank 16 on 2 ranks" in done.stdout
    assert (tmp_path / "my project" / "runs").is_dir()


def test_its_recipe_and_options_are_found_from_elsewhere_by_path(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make(capsys)
    recipe = tmp_path / "my project" / "recipes" / "first.yaml"
    assert main(["plan", str(recipe), "dataset.path=my project/data/train.jsonl", "train.epochs=7"]) == 0
    assert "sections" in capsys.readouterr().out, "the template of configs/dataset/mine.yaml"


def test_its_options_are_also_those_of_the_recipes_that_come_along(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make(capsys)
    monkeypatch.chdir("my project")
    assert main(["plan", "quickstart", "dataset=mine"]) == 0
    assert "tokenize mine" in capsys.readouterr().out
    assert main(["options"]) == 0
    assert "dataset=mine" in capsys.readouterr().out


def test_an_editor_has_the_schema(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make(capsys)
    settings = json.loads((tmp_path / "my project" / ".vscode" / "settings.json").read_text())
    [(schema, recipes)] = settings["yaml.schemas"].items()
    _, choices = json.loads((tmp_path / "my project" / schema).read_text())["properties"]["defaults"]["items"]["anyOf"]
    assert "mine" in choices["properties"]["override dataset"]["examples"]
    assert list((tmp_path / "my project").glob(recipes[0]))


@pytest.mark.parametrize(("name", "problem"), [("full", "full: is not empty"), ("file", "file: is a file")])
def test_nothing_is_overwritten(tmp_path: Path, monkeypatch, capsys, name: str, problem: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", name]) == 2
    assert problem in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
