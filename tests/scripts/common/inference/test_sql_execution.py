"""Queries on SQLite, in this process. Its limits, and the process of its own, are in test_sql_scores.py."""

from __future__ import annotations

import sqlite3

import pytest

from common.inference.sql_execution import Expected, Gold, expected

SCHEMA = "CREATE TABLE t (name TEXT, age INTEGER)"
ROWS = "INSERT INTO t VALUES ('Ann', 30), ('Bob', 60), ('Cid', 60)"


@pytest.mark.parametrize(
    ("result", "agrees"),
    [
        ([(1,), (2,), (3,)], True),
        ([(2,), (1,), (3,)], True),  # a tie has no order
        ([(1,), (3,), (2,)], False),  # but ties have
        ([(1,), (1,), (3,)], False),
        ([(1,), (2,)], False),
    ],
)
def test_rows_agree_in_any_order_within_a_tie(result: list, agrees: bool) -> None:
    assert Expected([[(1,), (2,)], [(3,)]], offset=0, count=3).agrees(result) == agrees


@pytest.mark.parametrize(("result", "agrees"), [([(2,), (3,)], True), ([(1,), (3,)], True), ([(3,), (2,)], False)])
def test_a_limit_shows_any_rows_of_a_tie_that_it_cuts(result: list, agrees: bool) -> None:
    assert Expected([[(1,), (2,)], [(3,)], [(4,)]], offset=1, count=2).agrees(result) == agrees


def test_the_rows_that_order_by_does_not_tell_apart_are_a_tie() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(f"{SCHEMA};{ROWS}")
    assert expected(database, "SELECT name FROM t ORDER BY age DESC").ties == [[("Bob",), ("Cid",)], [("Ann",)]]
    assert expected(database, "SELECT name FROM t").ties == [[("Ann",), ("Bob",), ("Cid",)]]


def test_without_rows_three_databases_are_made_up_in_the_same_way_each_time() -> None:
    query = "SELECT name FROM t WHERE age > 40"
    first, second = Gold(SCHEMA, "", query), Gold(SCHEMA, "", query)
    assert first._expected == second._expected and len(first._expected) == 3
    assert not first.empty
    assert first.accepts("SELECT name FROM t WHERE 40 < age") and not first.accepts("SELECT name FROM t")


def test_a_gold_query_that_finds_nothing_is_marked() -> None:
    assert Gold(SCHEMA, ROWS, "SELECT name FROM t WHERE age > 99").empty
    assert not Gold(SCHEMA, ROWS, "SELECT name FROM t").empty


def test_a_gold_query_that_does_not_run_raises() -> None:
    with pytest.raises(sqlite3.Error, match="no such column: size"):
        Gold(SCHEMA, ROWS, "SELECT size FROM t")
