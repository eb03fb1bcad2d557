"""Every option explains itself."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from runner.commands import options
from runner.compose.groups import list_groups
from runner.errors import RecipeError


@pytest.mark.parametrize("group", [group for group in list_groups() if group not in ("tp_size", "epochs")])
def test_every_option_says_what_it_is_for(group: str) -> None:
    assert [option for option in list_groups()[group] if not options.purpose(group, option)] == []


def test_an_explanation_ends_with_a_sentence_not_with_a_line() -> None:
    assert options.purpose("dataset", "files").endswith("text. For other columns, write a template.")
    assert options.purpose("tracker", "mlflow").endswith("a server such as http://mlflow:5000.")


@pytest.mark.parametrize("group", ["export", "paths", "parallel", *list_groups()])
def test_a_group_or_section_shows_its_keys(group: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    options.show(group, console)
    assert f"{options._SECTIONS.get(group, group)}." in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_unknown_group_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean hardware"):
        options.show("hardwre", Console(file=io.StringIO()))


def test_brackets_in_a_help_text_are_shown() -> None:
    console = Console(file=io.StringIO(), width=200)
    options.show("target", console)
    assert "[user@]name[:port]" in console.file.getvalue()  # type: ignore[attr-defined]
