from __future__ import annotations

import json
import random
import re
import sqlite3
from pathlib import Path

import pytest

import make_sql as sql
from common import program

ASSETS = Path(__file__).parents[3] / "recipes" / "assets" / "sql"


def make(output: Path, *flags: str) -> Path:
    status = program.main(sql.run, sql.flags(), ["--output", str(output), *flags])
    assert status == 0
    return output


def examples(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def execute(example: dict[str, str]) -> list[tuple]:
    with sqlite3.connect(":memory:") as database:
        database.execute(example["context"])
        database.execute(example["rows"])
        return database.execute(example["answer"]).fetchall()


def table_of(example: dict[str, str]) -> tuple[str, frozenset[str]]:
    match = re.fullmatch(r"CREATE TABLE (\w+) \((.*)\)", example["context"])
    assert match
    return match[1], frozenset(column.split()[0] for column in match[2].split(", "))


def test_shipped_files_are_what_the_program_writes(tmp_path: Path) -> None:
    make(tmp_path, "--train-rows", "300")
    shipped, made = (folder.joinpath("train.jsonl").read_text().splitlines() for folder in (ASSETS, tmp_path))
    assert made == shipped[:300]
    assert (tmp_path / "eval.jsonl").read_bytes() == (ASSETS / "eval.jsonl").read_bytes()


def test_another_seed_gives_other_examples(tmp_path: Path) -> None:
    few = ("--train-rows", "20", "--eval-rows", "20")
    one, other = make(tmp_path / "1", "--seed", "1", *few), make(tmp_path / "2", "--seed", "2", *few)
    assert not {*examples_as_text(one)} & {*examples_as_text(other)}


def examples_as_text(folder: Path) -> list[str]:
    return [line for name in ("train.jsonl", "eval.jsonl") for line in (folder / name).read_text().splitlines()]


def test_held_out_tables_share_no_name_and_no_set_of_columns_with_training() -> None:
    train = [table_of(example) for example in examples(ASSETS / "train.jsonl")]
    held_out = [table_of(example) for example in examples(ASSETS / "eval.jsonl")]
    seen_columns = frozenset().union(*(columns for _, columns in train))
    assert not {name for name, _ in train} & {name for name, _ in held_out}
    assert not {columns for _, columns in train} & {columns for _, columns in held_out}
    assert all(columns - seen_columns for _, columns in held_out)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_answer_gives_a_result(split: str) -> None:
    rows = examples(ASSETS / f"{split}.jsonl")
    assert len({(row["context"], row["question"]) for row in rows}) == len(rows)
    assert all(execute(row) for row in rows)


@pytest.mark.parametrize("kind", sql.SAMPLERS)
def test_each_kind_of_question_can_be_made_and_told_from_its_near_misses(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(200):
        table = sql.sample_table(rng, held_out=False)
        rows = sql.sample_rows(table, rng)
        query = sql.sample_query(kind, table, rows, rng)
        if query and sql.is_telling(query, rows):
            break
    else:
        pytest.fail("no table suits")
    assert "{" not in sql.ask(query, rng)
    assert all(wrong.sql() != query.sql() for wrong in sql.near_misses(query))


def test_a_query_that_equals_its_near_miss_is_refused() -> None:
    columns = (sql.Column("name", kind="person"), sql.Column("age", 1, 99))
    table = sql.Table("pilot", columns)
    everyone = sql.Query("which", table, columns[:1], where=(sql.Condition(columns[1], ">", 5),))
    assert not sql.is_telling(everyone, [("Ann", 20), ("Bo", 30)])
    assert sql.is_telling(everyone, [("Ann", 20), ("Bo", 3)])


@pytest.mark.parametrize("plural", ["rivers", "cities", "buses", "toys", "order items"])
def test_plural(plural: str) -> None:
    singular = {"cities": "city", "buses": "bus"}.get(plural, plural[:-1])
    assert sql.Table(singular.replace(" ", "_"), ()).plural == plural


def test_a_count_below_one_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        make(tmp_path / "out", "--eval-rows", "0")
    assert stopped.value.code == 2
    assert "0 is below 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
