from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.inference.sql_scores import GoldFails, SqlChecker

SCRIPTS = Path(__file__).parents[4] / "scripts"
SCHEMA = (
    "CREATE TABLE head (name VARCHAR, age INTEGER, born_state VARCHAR);"
    "CREATE TABLE department (id INTEGER PRIMARY KEY, name VARCHAR, head_age INTEGER, budget REAL)"
)
ROWS = "INSERT INTO head VALUES ('Ann', 30, 'Ohio'), ('Bob', 60, 'Ohio'), ('Bob', 60, 'Utah')"


@pytest.fixture(scope="module")
def checker() -> Iterator[SqlChecker]:
    with SqlChecker() as checker:
        yield checker


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
def test_made_up_rows_tell_conditions_apart(checker, gold, right, wrong):
    question = checker.question(SCHEMA, "", gold)
    assert not question.empty
    assert checker.accepts(question, gold)
    assert all(checker.accepts(question, query) for query in right)
    start = gold[: gold.index("WHERE")]
    assert [query for query in wrong if checker.accepts(question, f"{start} WHERE {query}")] == []


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
def test_made_up_rows_tell_shapes_apart(checker, gold, wrong):
    question = checker.question(SCHEMA, "", gold)
    assert checker.accepts(question, gold)
    assert not checker.accepts(question, wrong)


def test_given_rows_are_used_as_they_are(checker):
    question = checker.question(SCHEMA, ROWS, "SELECT name FROM head WHERE age > 40")
    assert checker.accepts(question, "SELECT name FROM head WHERE age = 60")
    assert not checker.accepts(question, "SELECT DISTINCT name FROM head WHERE age = 60")


PEOPLE = "CREATE TABLE p (name TEXT, age INTEGER, city TEXT)"
AGES = """INSERT INTO p VALUES
    ('Ann', 30, 'Oslo'), ('Bob', 60, 'Rome'), ('Cid', 60, 'Oslo'), ('Dan', 60, NULL), ('Eve', 20, 'Rome')"""


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (
            "SELECT name FROM p ORDER BY age DESC",
            ["SELECT name FROM p ORDER BY age DESC, name", "SELECT name FROM p ORDER BY age DESC, name DESC"],
            ["SELECT name FROM p ORDER BY age", "SELECT name FROM p", "SELECT name FROM p ORDER BY name"],
        ),
        (
            "SELECT name FROM p ORDER BY age DESC, name",
            ["SELECT name FROM p ORDER BY -age, name ASC"],
            ["SELECT name FROM p ORDER BY age DESC, name DESC"],
        ),
        (
            "SELECT name FROM p ORDER BY age DESC LIMIT 2",
            [f"SELECT name FROM p ORDER BY age DESC, {tie} LIMIT 2" for tie in ("name", "name DESC", "city")],
            ["SELECT name FROM p ORDER BY age DESC LIMIT 3", "SELECT 'Bob' FROM p LIMIT 2",
             "SELECT name FROM p ORDER BY age LIMIT 2", "SELECT name FROM p WHERE name IN ('Bob', 'Ann')"],
        ),
        (
            "SELECT name FROM p ORDER BY age LIMIT 2 OFFSET 1",
            [f"SELECT name FROM p WHERE name IN ('Ann', '{tied}') ORDER BY age" for tied in ("Bob", "Cid", "Dan")],
            ["SELECT name FROM p ORDER BY age LIMIT 2", "SELECT name FROM p WHERE name IN ('Cid', 'Dan')",
             "SELECT name FROM p WHERE name IN ('Ann', 'Bob') ORDER BY age DESC"],
        ),
        (
            "SELECT name FROM p ORDER BY age LIMIT 1, 2",
            ["SELECT name FROM p WHERE name IN ('Ann', 'Cid') ORDER BY age"],
            ["SELECT name FROM p ORDER BY age LIMIT 1"],
        ),
        (
            "SELECT name FROM p LIMIT 2",
            ["SELECT name FROM p ORDER BY name DESC LIMIT 2"],
            ["SELECT name FROM p LIMIT 1", "SELECT city FROM p LIMIT 2", "SELECT 'Ann' FROM p LIMIT 2"],
        ),
        (
            "SELECT city, COUNT(*) AS n FROM p WHERE city > '' GROUP BY city ORDER BY n DESC",
            ["SELECT city, COUNT(*) FROM p WHERE city > '' GROUP BY city ORDER BY COUNT(*), city DESC"],
            ["SELECT city, 1 FROM p WHERE city > '' GROUP BY city"],
        ),
        (
            "SELECT city FROM p WHERE age > 20 GROUP BY city ORDER BY COUNT(*) DESC",
            ["SELECT city FROM p WHERE age > 20 GROUP BY city ORDER BY COUNT(*) DESC, city DESC"],
            ["SELECT city FROM p WHERE age > 20 GROUP BY city ORDER BY COUNT(*)"],
        ),
        (
            "SELECT name, age FROM p ORDER BY 2 DESC -- , the oldest first",
            ["SELECT name, age FROM p ORDER BY age DESC, name DESC"],
            ["SELECT name, age FROM p ORDER BY name"],
        ),
        (
            "SELECT DISTINCT age FROM p ORDER BY age",
            ["SELECT age FROM p GROUP BY age ORDER BY age"],
            ["SELECT DISTINCT age FROM p ORDER BY age DESC"],
        ),
        (
            "SELECT name FROM p WHERE age < 60 UNION SELECT city FROM p WHERE city > '' ORDER BY 1",
            ["SELECT city FROM p WHERE city > '' UNION SELECT name FROM p WHERE age < 60 ORDER BY name"],
            ["SELECT name FROM p WHERE age < 60 UNION SELECT city FROM p WHERE city > '' ORDER BY 1 DESC"],
        ),
        (
            "SELECT age FROM (SELECT age FROM p ORDER BY age LIMIT 2)",
            ["SELECT age FROM p WHERE age < 60 ORDER BY age DESC"],
            ["SELECT age FROM p LIMIT 2"],
        ),
        (
            "WITH old AS (SELECT * FROM p WHERE age > 20 ORDER BY age) SELECT name FROM old ORDER BY age",
            ["SELECT name FROM p WHERE age > 20 ORDER BY age, name DESC"],
            ["SELECT name FROM p WHERE age > 20 ORDER BY age DESC"],
        ),
        (
            "SELECT name FROM p ORDER BY CASE WHEN city = 'a, b) ORDER BY' THEN 1 ELSE age END",
            ["SELECT name FROM p ORDER BY age, name DESC"],
            ["SELECT name FROM p ORDER BY name DESC"],
        ),
        ("VALUES (1), (2)", ["SELECT 1 UNION SELECT 2 ORDER BY 1"], ["VALUES (1), (3)", "VALUES (1)"]),
    ],
)  # fmt: skip
def test_order_matters_only_as_far_as_the_gold_query_decides_it(checker, gold, right, wrong):
    question = checker.question(PEOPLE, AGES, gold)
    assert checker.accepts(question, gold)
    assert [query for query in right if not checker.accepts(question, query)] == []
    assert [query for query in wrong if checker.accepts(question, query)] == []


def test_a_gold_query_without_a_result_is_marked(checker):
    assert checker.question(SCHEMA, ROWS, "SELECT name FROM head WHERE age > 99").empty
    assert checker.question(SCHEMA, ROWS, "SELECT MAX(age) FROM head WHERE age > 99").empty
    assert not checker.question(SCHEMA, ROWS, "SELECT COUNT(*) FROM head WHERE age > 99").empty


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
        "SELECT random() FROM head",
        "SELECT load_extension('/nowhere')",
        "SELECT * FROM pragma_table_info('head')",
        "VACUUM INTO '/tmp/copy.db'",
        "SELECT \0",
        "not sql",
        "",
    ],
)
def test_a_harmful_or_broken_prediction_is_wrong_and_changes_nothing(checker, prediction):
    question = checker.question(SCHEMA, "", "SELECT name FROM head")
    assert not checker.accepts(question, prediction)
    assert checker.accepts(question, "SELECT name FROM head")


def test_a_prediction_or_schema_cannot_reach_files(checker, tmp_path: Path):
    target = tmp_path / "made.db"
    assert not checker.accepts(checker.question(SCHEMA, ROWS, "SELECT 1"), f"ATTACH '{target}' AS other")
    with pytest.raises(GoldFails, match="not authorized"):
        checker.question(f"ATTACH '{target}' AS other", "", "SELECT 1")
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
def test_a_gold_query_that_does_not_run_says_why(checker, schema, rows, gold, reason):
    with pytest.raises(GoldFails, match=reason):
        checker.question(schema, rows, gold)


_NUMBERS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 90000) SELECT"
_LONG = "WITH RECURSIVE c(x) AS (SELECT hex(zeroblob(400000)) UNION ALL SELECT x FROM c) SELECT"
ENDLESS = f"{_LONG} SUM(instr(x, '1')) FROM c"  # few steps that take long
HOSTILE = [
    "WITH RECURSIVE c(x) AS (SELECT 'ab' UNION ALL SELECT x || x FROM c) SELECT LENGTH(x) FROM c",
    f"SELECT {'replace(' * 8}'aaaaaaaa'" + ", 'a', 'aaaaaaaaaaaaaaaa')" * 8,
    f"SELECT {'hex(' * 30}'a'{')' * 30}",
    "SELECT hex(zeroblob(900000000))",
    "SELECT printf('%.*c', 900000000, 'x')",
    f"{_LONG} group_concat(x) FROM c",
    f"{_LONG} x FROM c",
    f"{_NUMBERS} x, hex(zeroblob(40000)) FROM c ORDER BY 2, 1",
    f"{_NUMBERS} hex(zeroblob(400000)) FROM c",
    "The query:" + "\n" * 100_000,
    "SELECT " + "[" * 100_000,  # takes a square of time to read
]
CHECK = f"""
import json, resource, sys
sys.path.insert(0, {str(SCRIPTS)!r})
resource.setrlimit(resource.RLIMIT_CPU, (10, resource.getrlimit(resource.RLIMIT_CPU)[1]))  # of either process
from common.inference.sql_scores import SqlChecker
with SqlChecker() as checker:
    question = checker.question("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)", "SELECT a FROM t")
    for query in json.load(sys.stdin):
        assert not checker.accepts(question, query), query
        assert checker.accepts(question, "SELECT a FROM t"), "the next answer is checked as before"
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_time_and_memory_are_bounded_whatever_an_answer_does():
    done = subprocess.run([sys.executable, "-c", CHECK], input=json.dumps(HOSTILE), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.1 * 2**20, "KiB"
    assert done.stderr == ""


def test_a_query_that_is_ended_is_wrong_and_a_gold_query_fails(checker):
    question = checker.question(SCHEMA, ROWS, "SELECT name FROM head")
    assert not checker.accepts(question, ENDLESS)
    with pytest.raises(GoldFails, match="its execution was ended: it took more than 5 s of CPU time"):
        checker.question(SCHEMA, ROWS, ENDLESS)
    assert checker.accepts(question, "SELECT name FROM head")


def test_a_result_too_large_to_hold_is_wrong_before_memory_ends(checker):
    large = f"{_NUMBERS} hex(zeroblob(400000)) FROM c LIMIT"
    question = checker.question(SCHEMA, ROWS, f"{large} 50")
    assert checker.accepts(question, f"{large} 50")
    with pytest.raises(GoldFails, match="more than 100000 rows or 67108864 bytes"):
        checker.question(SCHEMA, ROWS, f"{large} 500")


def test_nothing_is_the_answer_to_a_question_that_finds_nothing(checker):
    question = checker.question(SCHEMA, ROWS, "SELECT name FROM head WHERE age > 99")
    assert not checker.accepts(question, "")
    assert not checker.accepts(question, "I cannot answer that.")


def test_a_gold_query_in_a_fence_is_a_query(checker):
    question = checker.question(SCHEMA, ROWS, "```sql\nSELECT name FROM head\n```")
    assert checker.accepts(question, "SELECT name FROM head;\n\nIt lists the names.")


def test_a_person_sees_what_a_query_finds(checker):
    found = checker.result(SCHEMA, ROWS, "", "SELECT name, age FROM head WHERE age > 40 ORDER BY born_state")
    assert found == {"columns": ["name", "age"], "rows": [["Bob", "60"], ["Bob", "60"]], "count": 2, "invented": False}
    assert checker.result(SCHEMA, "", "", "SELECT NULL FROM head")["rows"][0] == [None]
    wanted = "SELECT name FROM head WHERE name = 'Zoe'"  # the tables are those of the reference
    assert checker.result(SCHEMA, "", wanted, "SELECT min(name) FROM head WHERE name = 'Zoe'")["rows"] == [["Zoe"]]


@pytest.mark.parametrize("query", ["DROP TABLE head", "SELECT nothing FROM head", "no query", ""])
def test_a_query_that_fails_says_why(checker, query):
    assert checker.result(SCHEMA, ROWS, "", query)["failure"]


def test_much_is_not_shown(checker):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)"
    found = checker.result(SCHEMA, ROWS, "", f"{numbers} SELECT i, hex(zeroblob(999)) FROM n")
    assert (found["count"], len(found["rows"]), len(found["rows"][0][1])) == (1000, 20, 200)
