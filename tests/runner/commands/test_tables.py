"""The terminal, and tables in it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from runner.commands import tables


def shown(table, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    return output.getvalue()


def test_brackets_in_a_heading_are_text() -> None:
    assert "a[red]b" in shown(tables.table("a[red]b"))


def test_brackets_in_a_cell_are_text() -> None:
    table = tables.of_rows([{"overrides": "train.lora.targets=[q_proj,v_proj]"}], ["overrides"])
    assert "train.lora.targets=[q_proj,v_proj]" in shown(table)


def test_a_long_cell_is_wrapped_and_keeps_every_character() -> None:
    table = tables.table("path")
    table.add_row("/" + "x" * 100)
    output = shown(table, width=40)
    assert output.count("x") == 100 and "…" not in output


def test_what_is_not_a_terminal_gets_wide_lines(capsys) -> None:
    assert tables.terminal().width == 160


def said(text: str, width: int, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=terminal, color_system=None)
    tables.say(console, text, indent=len("prompt   "))
    return output.getvalue()


def test_a_terminal_breaks_text_between_words_below_its_first_line() -> None:
    assert said("prompt   CREATE TABLE boat\n(name TEXT)", 24, terminal=True) == (
        "prompt   CREATE TABLE \n         boat\n         (name TEXT)\n"
    )


def test_a_file_gets_lines_whole() -> None:
    assert said("prompt   CREATE TABLE boat\n(name TEXT)", 24, terminal=False) == (
        "prompt   CREATE TABLE boat\n         (name TEXT)\n"
    )


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [30, 45, 60, 80, 137, 160])
@pytest.mark.parametrize(
    "overrides",
    [
        "", "train.lora.rank=16", "train.lora.targets=[q_proj,v_proj] seed=1 dataset.path=/a/folder/of/mine/rows.jsonl",
        "이름=한국어 " * 20, "x" * 200, "two\nlines",
    ],
)  # fmt: skip
def test_rows_are_printed_as_the_table_of_them(overrides: str, width: int, terminal: bool) -> None:
    consoles = [
        Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None) for _ in ("table", "rows")
    ]
    names = ("run", "state", "time", "overrides")
    texts = [("a", "finished", "1:00", overrides), ("b-long-name", "waiting: for cores", "", "")]
    rows = [dict(zip(names, (*cells, tables.one_line(last, consoles[0])), strict=True)) for *cells, last in texts]
    consoles[0].print(tables.of_rows(rows, names))
    tables.print_rows(rows, names, consoles[1])
    assert consoles[0].file.getvalue() == consoles[1].file.getvalue()
