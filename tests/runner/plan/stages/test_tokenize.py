from __future__ import annotations

import json
from pathlib import Path

import pytest
from planned import arguments, command, value_of

from runner.compose.schema import Template
from runner.errors import RecipeError
from runner.plan.packages import CHAT, HUB, PARQUET
from runner.plan.stages import tokenize

HUB_ROWS = ["dataset.source=hub", "dataset.path=me/rows"]


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """A data set of two files, in the format alpaca."""
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "i", "output": "o"}\n' * 3)
    return ["dataset=files", f"dataset.path='{tmp_path}/*.jsonl'"]


def test_the_files_of_a_pattern_are_listed_in_order(rows: list[str], tmp_path: Path) -> None:
    args = arguments(command(tokenize.command, *rows, after="fetch"))
    start = args.index("--input") + 1
    assert args[start : start + 2] == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]


def test_rows_without_a_template_are_read_in_the_format_of_their_columns(rows: list[str]) -> None:
    made = command(tokenize.command, *rows, "dataset.name=mine", after="fetch")
    assert value_of(arguments(made), "--format") == "auto" and "--template" not in arguments(made)
    assert made.title.startswith("tokenize mine as alpaca to sequences of ")
    named = arguments(command(tokenize.command, *rows, "dataset.format=alpaca", after="fetch"))
    assert value_of(named, "--format") == "alpaca"


@pytest.mark.parametrize(("chat", "flag"), [("true", "--chat"), ("false", "--no-chat"), ("null", None)])
def test_a_chat_template_is_used_as_the_recipe_says(rows: list[str], chat: str, flag: str | None) -> None:
    args = arguments(command(tokenize.command, *rows, f"dataset.template.chat={chat}", after="fetch"))
    assert [arg for arg in args if arg.endswith("chat")] == ([flag] if flag else [])


def test_rows_are_held_out_unless_there_is_a_file_of_them(rows: list[str], tmp_path: Path) -> None:
    args = arguments(command(tokenize.command, *rows, "dataset.eval_rows=1", after="fetch"))
    assert value_of(args, "--eval-rows") == "1"
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"instruction": "i", "output": "o"}\n')
    args = arguments(command(tokenize.command, *rows, f"dataset.eval_path={held_out}", after="fetch"))
    assert value_of(args, "--eval-input") == str(held_out) and "--eval-rows" not in args


def test_rows_of_the_hub_have_their_revision_and_split() -> None:
    made = command(tokenize.command, *HUB_ROWS, "dataset.revision=v1", "dataset.split='train[:9]'", after="fetch")
    args = arguments(made)
    assert [value_of(args, flag) for flag in ("--hub", "--revision", "--hub-split")] == ["me/rows", "v1", "train[:9]"]
    assert HUB in made.uses


def test_a_condition_on_a_column_is_one_argument(rows: list[str]) -> None:
    args = arguments(command(tokenize.command, *rows, "+dataset.where.instruction='i'", after="fetch"))
    assert "--where=instruction=i" in args


def test_a_template_has_the_keys_of_its_kind() -> None:
    prompt = json.loads(tokenize.template_json(Template(sections=["{a}"], response="{b}")))
    assert prompt == {"sections": ["{a}"], "separator": "\n\n", "response": "{b}", "system": None, "chat": False}
    conversation = json.loads(tokenize.template_json(Template(turns=["messages"], tools="tools")))
    assert conversation == {"turns": ["messages"], "tools": "tools", "system": None, "chat": True}


def test_only_files_that_need_it_need_pyarrow(rows: list[str], tmp_path: Path) -> None:
    assert PARQUET not in command(tokenize.command, *rows, after="fetch").uses
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.jsonl.zst").write_bytes(b"")
    template = ["dataset.template.sections=['{instruction}']", "dataset.template.response='{output}'"]
    made = command(tokenize.command, *rows, *template, f"dataset.eval_path={tmp_path}/folder", after="fetch")
    assert list(made.uses) == [PARQUET], "the template is the recipe's, so no chat template is rendered"
    assert CHAT in command(tokenize.command, *rows, after="fetch").uses


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=files", "dataset.path="], "dataset.path: says where the rows are"),
        (["dataset.source=hub", "dataset.path=rows"], "dataset.path: rows: a name on the hub is OWNER/NAME"),
    ],
)
def test_rows_that_cannot_be_found_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        command(tokenize.command, *overrides, after="fetch")
