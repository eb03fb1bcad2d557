"""The query in a model's answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.inference.sql_text import parts, query_in

QUERY = "SELECT name\nFROM t WHERE a = ';' AND b = 'x:\n\nSELECT'"


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "{};",
        "  {} ;\n",
        "```sql\n{}\n```",
        "```SQL\n{};\n```\nThis lists the names.",
        "```\n{}\n```",
        "```sql {}```",
        "```sqlite\n{}",
        "Here is the query:\n\n```sql\n{};\n```\n\nIt selects the names; that is all.",
        "The table is ```CREATE TABLE t (a)``` so:\n```sql\n{}\n```",
        "Here is the query: {}",
        "SQL: {};",
        "Sure! With this schema, the answer is:\n{};\n\nExplanation: it reads t.",
        "{};\nThis query selects the names.",
        "{}\n\nThis query selects the names; it isn't slow.",
        "{}\n\n### Question\nHow many?",
        "{};\n\nWith this query we select the names.",
        "-- the names\n{}",
    ],
)
def test_the_query_is_found_in_an_answer(answer):
    assert query_in(answer.format(QUERY)) == QUERY


@pytest.mark.parametrize(
    "query",
    [
        "WITH old AS (SELECT * FROM t\n\nWHERE a > 1)\n\nSELECT name FROM old",
        "WITH RECURSIVE c(x) AS (SELECT 1) SELECT x FROM c",
        "SELECT name\n\nFROM t\n\nLEFT JOIN u ON a = b\n\nWHERE a > 1",
        "select a from t -- all; of them\nwhere a > 1",
        "SELECT a /* : SELECT b; */ FROM t",
        "SELECT name FROM t; DELETE FROM t",
        "DELETE FROM t;\nSELECT name FROM t",
        "INSERT INTO t\nSELECT name FROM t",
        "EXPLAIN\nSELECT name FROM t",
        "I do not know.",
        "",
    ],
)
def test_an_answer_that_is_all_query_or_none_is_left_as_it_is(query):
    assert query_in(query) == query


@given(st.text(alphabet="SELCT ABY,;'\"()`[]-/*\n:") | st.text())
def test_any_text_has_a_query_and_parts_or_none(text):
    parts(query_in(text))


@pytest.mark.parametrize(
    ("query", "terms", "limited", "offset"),
    [
        ("SELECT a FROM t ORDER BY b DESC, lower(c, 'x, y') ASC NULLS LAST", ["b", "lower(c, 'x, y')"], False, 0),
        ("SELECT a FROM t ORDER BY a LIMIT 2 OFFSET 3", ["a"], True, 3),
        ("SELECT a FROM t LIMIT 3, 2 -- LIMIT 9, 9", [], True, 3),
        ("SELECT a FROM (SELECT a FROM t ORDER BY b LIMIT 1)", [], False, 0),
        ("SELECT 1", [], False, 0),
    ],
)
def test_the_order_and_the_limit_of_the_whole_query_are_found(query, terms, limited, offset):
    found = parts(query)
    assert found and (found.terms, found.limited, found.offset) == (terms, limited, offset)


def test_columns_are_added_before_from_and_the_limit_is_left_out():
    found = parts("SELECT a FROM t WHERE b = ')' ORDER BY c LIMIT 2")
    assert found and re.sub(r"\s+", " ", found.unlimited(["c"])).strip() == (
        "SELECT a , (c) FROM t WHERE b = ')' ORDER BY c"
    )


@pytest.mark.parametrize("query", ["VALUES (1)", "DELETE FROM t", "SELECT a FROM t LIMIT 1 + 1", ""])
def test_a_query_without_plain_parts_has_none(query):
    assert parts(query) is None
