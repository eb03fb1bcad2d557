from __future__ import annotations

from pathlib import Path

import pytest

from common.sql_scoring import GoldFails, SqlQuestion

SCHEMA = (
    "CREATE TABLE head (name VARCHAR, age INTEGER, born_state VARCHAR);"
    "CREATE TABLE department (id INTEGER PRIMARY KEY, name VARCHAR, head_age INTEGER, budget REAL)"
)
ROWS = "INSERT INTO head VALUES ('Ann', 30, 'Ohio'), ('Bob', 60, 'Ohio'), ('Bob', 60, 'Utah')"


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (
            "SELECT COUNT(*) FROM head WHERE age > 56",
            ["select count(1) from head where 56 < age", "SELECT COUNT(*) FROM head WHERE age >= 57;"],
            ["age >= 56", "age > 57", "age < 56", "age = 56", "1"],
        ),
        (
            'SELECT name FROM head WHERE born_state = "Alabama" AND age = 40',
            ["SELECT name FROM head WHERE age = 40 AND born_state = 'Alabama'"],
            ["born_state = 'Alabama'", "age = 40", "born_state = 'Alabama' OR age = 40", "born_state = 'alabama'"],
        ),
        (
            "SELECT AVG(budget) FROM department WHERE budget BETWEEN 10 AND 20",
            ["SELECT SUM(budget) / COUNT(budget) FROM department WHERE budget >= 10 AND budget <= 20"],
            ["budget > 10 AND budget <= 20", "budget < 20", "1"],
        ),
        (
            "SELECT name FROM head WHERE born_state LIKE '%bama%'",
            ["SELECT name FROM head WHERE instr(lower(born_state), 'bama') > 0"],
            ["born_state = 'bama'", "born_state LIKE 'bama'", "born_state NOT LIKE '%bama%'"],
        ),
    ],
)
def test_made_up_rows_tell_conditions_apart(gold, right, wrong):
    question = SqlQuestion(SCHEMA, "", gold)
    assert not question.empty
    assert question.accepts(gold)
    assert all(question.accepts(query) for query in right)
    start = gold[: gold.index("WHERE")]
    assert [query for query in wrong if question.accepts(f"{start} WHERE {query}")] == []


@pytest.mark.parametrize(
    ("gold", "wrong"),
    [
        ("SELECT d.name FROM department d JOIN head h ON d.head_age = h.age", "SELECT name FROM department"),
        ("SELECT DISTINCT born_state FROM head", "SELECT born_state FROM head"),
        ("SELECT MAX(budget) FROM department", "SELECT MIN(budget) FROM department"),
        ("SELECT COUNT(*) FROM head", "SELECT COUNT(born_state) FROM head"),
        (
            "SELECT born_state FROM head GROUP BY born_state HAVING COUNT(*) > 3",
            "SELECT born_state FROM head GROUP BY born_state HAVING COUNT(*) > 4",
        ),
    ],
)
def test_made_up_rows_tell_shapes_apart(gold, wrong):
    question = SqlQuestion(SCHEMA, "", gold)
    assert question.accepts(gold)
    assert not question.accepts(wrong)


def test_given_rows_are_used_as_they_are():
    question = SqlQuestion(SCHEMA, ROWS, "SELECT name FROM head WHERE age > 40")
    assert question.accepts("SELECT name FROM head WHERE age = 60")
    assert not question.accepts("SELECT DISTINCT name FROM head WHERE age = 60")


def test_order_matters_only_where_the_gold_query_orders():
    ordered = SqlQuestion(SCHEMA, ROWS, "SELECT age FROM head ORDER BY age")
    assert not ordered.accepts("SELECT age FROM head ORDER BY age DESC")
    inner = SqlQuestion(SCHEMA, ROWS, "SELECT age FROM (SELECT age FROM head ORDER BY age LIMIT 2)")
    assert inner.accepts("SELECT age FROM head WHERE rowid IN (1, 2) ORDER BY age DESC")
    assert SqlQuestion(SCHEMA, ROWS, "SELECT age FROM head").accepts("SELECT age FROM head ORDER BY age DESC")


def test_a_gold_query_without_a_result_is_marked():
    assert SqlQuestion(SCHEMA, ROWS, "SELECT name FROM head WHERE age > 99").empty
    assert SqlQuestion(SCHEMA, ROWS, "SELECT MAX(age) FROM head WHERE age > 99").empty
    assert not SqlQuestion(SCHEMA, ROWS, "SELECT COUNT(*) FROM head WHERE age > 99").empty


@pytest.mark.parametrize(
    "prediction",
    [
        "DROP TABLE head",
        "DELETE FROM head",
        "DELETE FROM head RETURNING name",
        "PRAGMA writable_schema = 1",
        "SELECT name FROM head; DELETE FROM head",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT COUNT(*) FROM c",
        "SELECT zeroblob(1000000000)",
        "SELECT a.name FROM department a, department b, department c, department d, department e, department f",
        "SELECT CAST(x'ff' AS TEXT)",
        "SELECT \0",
        "not sql",
        "",
    ],
)
def test_a_harmful_or_broken_prediction_is_wrong_and_changes_nothing(prediction):
    question = SqlQuestion(SCHEMA, "", "SELECT name FROM head")
    assert not question.accepts(prediction)
    assert question.accepts("SELECT name FROM head")


def test_a_prediction_or_schema_cannot_reach_files(tmp_path: Path):
    target = tmp_path / "made.db"
    assert not SqlQuestion(SCHEMA, ROWS, "SELECT 1").accepts(f"ATTACH '{target}' AS other")
    with pytest.raises(GoldFails, match="not authorized"):
        SqlQuestion(f"ATTACH '{target}' AS other", "", "SELECT 1")
    assert not target.exists()


@pytest.mark.parametrize(
    ("schema", "rows", "gold", "reason"),
    [
        ("CREATE TABLE", "", "SELECT 1", "incomplete input"),
        ("CREATE TABLE t (a)", "INSERT INTO u VALUES (1)", "SELECT a FROM t", "no such table: u"),
        ("CREATE TABLE t (a)", "", "SELECT b FROM t", "no such column: b"),
        ("CREATE TABLE t (a)", "", "DELETE FROM t", "not authorized"),
    ],
)
def test_a_gold_query_that_does_not_run_says_why(schema, rows, gold, reason):
    with pytest.raises(GoldFails, match=reason):
        SqlQuestion(schema, rows, gold)
