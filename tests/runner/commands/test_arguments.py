"""The arguments of the commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from runner.commands import arguments


def test_a_recipe_takes_overrides_and_both_can_be_completed() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_plan(parser)
    given = parser.parse_args(["quickstart", "tp_size=2", "epochs=1"])
    assert (given.recipe, given.overrides) == ("quickstart", ["tp_size=2", "epochs=1"])
    recipe, overrides = (action for action in parser._actions if action.dest in ("recipe", "overrides"))
    assert "quickstart" in recipe.completer("qui")  # type: ignore[attr-defined]
    assert "tp_size=2" in overrides.completer("tp_size=")  # type: ignore[attr-defined]


def test_a_run_is_the_last_one_in_the_usual_folder_unless_the_user_names_another() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_show(parser)
    usual = parser.parse_args([])
    assert (usual.run, usual.folder) == ("last", Path("runs"))
    other = parser.parse_args(["--in", "elsewhere", "mine"])
    assert (other.run, other.folder) == ("mine", Path("elsewhere"))
