from __future__ import annotations

from planned import arguments, artifacts, command, recipe_of, value_of

from runner.plan.stages import evaluate

BEFORE = "fetch tokenize export"


def test_base_and_adapter_are_measured_on_the_held_out_rows() -> None:
    args = arguments(command(evaluate.command, "evaluate.examples=5", after=BEFORE))
    assert value_of(args, "--model") == "/store/objects/fetch-1"
    assert value_of(args, "--adapter") == "/store/objects/export-1/adapter"
    assert value_of(args, "--tokens") == "/store/objects/tokenize-1"
    assert value_of(args, "--examples") == "5"


def test_columns_of_sql_are_passed_only_where_sql_is_measured() -> None:
    sql = arguments(command(evaluate.command, "evaluate.metrics=[exact_match,sql]", after=BEFORE))
    assert sql[sql.index("--metrics") + 1 :][:2] == ["exact_match", "sql"]
    assert value_of(sql, "--sql-schema") == "context"
    text = arguments(command(evaluate.command, "evaluate.metrics=[exact_match]", after=BEFORE))
    assert not {"sql", "--sql-schema", "--sql-rows"} & set(text)


def test_a_recipe_may_leave_it_out() -> None:
    assert evaluate.command(recipe_of("evaluate=none"), artifacts(*BEFORE.split())) is None
