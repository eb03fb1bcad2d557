"""The control plane recognizes the format of rows as the stage program does."""

from __future__ import annotations

import itertools

import pytest

from common.data import row_formats as stage_program
from common.program import BadInput
from runner.compose.schema import ROW_FORMATS, Template
from runner.plan.checks import row_formats

COLUMNS = sorted({column for columns in row_formats.REQUIRED.values() for column in columns})


def test_the_formats_are_those_of_the_schema_and_of_the_stage_program() -> None:
    assert tuple(row_formats.REQUIRED) == ROW_FORMATS
    assert {name: kind.required for name, kind in stage_program.FORMATS.items()} == row_formats.REQUIRED


def test_any_three_columns_are_recognized_as_the_stage_program_does() -> None:
    for columns in itertools.chain.from_iterable(itertools.combinations(COLUMNS, n) for n in (1, 2, 3)):
        row = dict.fromkeys(columns, "a")
        try:
            name = row_formats.recognise(row)
        except row_formats.UnknownFormat:
            with pytest.raises(BadInput):
                stage_program.recognise(row)
        else:
            assert stage_program.recognise(row) == name


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (Template(), False),
        (Template(system="s", chat=True), False),
        (Template(sections=["{a}"]), True),
        (Template(response="{a}"), True),
        (Template(turns=["messages"]), True),
    ],
)
def test_sections_turns_or_a_response_make_a_template(template: Template, written: bool) -> None:
    assert row_formats.is_written(template) == written
