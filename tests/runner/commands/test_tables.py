"""The terminal, and tables in it."""

from __future__ import annotations

import io

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
