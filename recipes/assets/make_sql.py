"""Make a text-to-SQL data set from a grammar: questions, tables, answers and rows to execute them on.

Every table is invented: an entity with a few columns of its domain and made-up rows. The held-out tables use
entities that the training tables never use, and each has at least one column that they never use either, so a
question about them is answered by reading the table and the question, not from memory.

Input: none, only a seed. Output: `train.jsonl` and `eval.jsonl`, one object a line:
    question  "How many rivers are there with a length above 840?"
    context   "CREATE TABLE river (name TEXT, country TEXT, length INTEGER)"
    answer    "SELECT COUNT(*) FROM river WHERE length > 840"
    rows      "INSERT INTO river VALUES ('Velmora', 'Oskia', 912), ..."
The answer, run by SQLite on the rows, never gives an empty result, nor the result of a query near to it (a
condition left out, another column, the other direction).

Example: PYTHONPATH=scripts python recipes/assets/make_sql.py --output recipes/assets/sql --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from common import events, program

ROWS_PER_TABLE = 8
COLUMNS_PER_TABLE = (3, 4)  # beside the column that names the row


class Domain(NamedTuple):
    """Entities that share columns. The `held_out_*` ones are for the evaluation only."""

    label: str  # the column that names a row
    label_values: str  # what kind of text it holds
    entities: str
    held_out_entities: str
    columns: str  # name:low-high for numbers, name:kind or name:one|of|these for text
    held_out_columns: str


DOMAINS = (
    Domain("name", "person", "singer actor teacher doctor pilot farmer lawyer nurse", "painter student engineer",
           "age:18-80 salary:900-9000 city:place country:place height:150-210 birth_year:1930-2005 "
           "language:english|german|spanish|korean skill_level:1-10",
           "hair_color:black|brown|blond|red award_count:1-30 employer:place"),
    Domain("name", "place", "river lake island mountain desert volcano", "canyon glacier valley",
           "length:20-4000 depth:5-900 country:place continent:africa|asia|europe|america area:100-9000 "
           "elevation:10-8000 discovery_year:1500-1950", "region:place temperature:1-45 explorer:person"),
    Domain("name", "place", "city village harbor district province", "suburb kingdom colony",
           "population:100-9900 mayor:person country:place founding_year:800-1990 area:10-990 "
           "tax_rate:2-45 climate:dry|wet|cold|mild", "governor:person rainfall:100-3000 currency:title"),
    Domain("title", "title", "film book song game album novel", "poem opera magazine",
           "director:person writer:person year:1920-2024 rating:1-10 genre:drama|comedy|horror|crime "
           "budget:100-9000 price:5-90 page_count:60-900", "composer:person award_count:1-30 publisher:place"),
    Domain("model", "code", "car phone camera printer laptop bicycle", "drone tractor scooter",
           "price:100-9900 maker:place color:red|blue|green|white|black weight:1-900 release_year:1980-2024 "
           "speed:10-400 power:5-700 warranty:1-10",
           "battery_life:2-72 material:steel|carbon|plastic|wood designer:person"),
    Domain("name", "place", "bridge museum hotel tower castle stadium", "temple theater library",
           "height:10-800 architect:person city:place opening_year:1700-2020 cost:100-9900 visitor_count:50-9900 "
           "style:modern|gothic|roman|baroque floor_count:2-90", "sponsor:person capacity:100-9000 room_count:3-500"),
    Domain("code", "code", "flight train ship bus truck", "ferry rocket tram",
           "origin:place destination:place distance:50-9000 duration:30-900 ticket_price:5-900 "
           "status:early|late|ready|stopped seat_count:10-800",
           "captain:person crew_size:2-60 cargo:corn|coal|sand|milk"),
    Domain("name", "title", "team club band school company hospital", "festival bakery orchestra",
           "manager:person city:place member_count:5-900 founding_year:1850-2020 budget:100-9900 "
           "score:1-99 sector:public|private|mixed", "sponsor:place profit:10-5000 vehicle_count:1-80"),
    Domain("name", "place", "horse dog bird fish snake", "rabbit turtle camel",
           "breed:title owner:person weight:1-900 age:1-40 habitat:forest|ocean|meadow|swamp length:5-600 "
           "food:grass|seeds|meat|fruit", "temperature:20-42 nest_count:1-40 zoo:place"),
    Domain("code", "code", "order_item invoice parcel ticket loan", "contract voucher shipment",
           "customer:person amount:5-9900 quantity:1-99 day:1-31 city:place discount:1-60 "
           "state:open|paid|closed|lost", "supplier:place fee:1-300 priority:high|low|normal"),
)  # fmt: skip

SYLLABLES = [
    onset + vowel
    for onset in ("b", "br", "c", "ch", "d", "dr", "f", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "r", "s",
                  "st", "t", "tr", "v", "w", "z")
    for vowel in ("a", "e", "i", "o", "u", "ai", "ea", "ou")
]  # fmt: skip
CODAS = ("", "l", "n", "r", "s", "th", "x", "m", "nd", "rk")
TITLE_WORDS = (
    "Silent", "Golden", "Broken", "Hidden", "Final", "Distant", "Frozen", "Little", "Crimson", "Silver", "Empty",
    "Burning", "Gentle", "Stormy", "Ancient", "Lucky", "Garden", "River", "Shadow", "Winter", "Harbor", "Mirror",
    "Engine", "Letter", "Summer", "Island", "Window", "Forest", "Candle", "Signal", "Dragon", "Market",
)  # fmt: skip
CODE_LETTERS = "ABCDEFGHKLMNPRSTVWXZ"


@dataclass(frozen=True)
class Column:
    """A column and how its values are drawn: numbers from low..high, text of a kind or one of `choices`."""

    name: str
    low: int = 0
    high: int = 0
    kind: str = ""
    choices: tuple[str, ...] = ()

    @property
    def is_number(self) -> bool:
        return self.high > 0

    @property
    def words(self) -> str:
        """The name as a person writes it: birth_year is "birth year"."""
        return self.name.replace("_", " ")

    @staticmethod
    def parse(text: str) -> Column:
        """Read one entry of `Domain.columns`."""
        name, _, values = text.partition(":")
        if "|" in values:
            return Column(name, choices=tuple(values.split("|")))
        if values[0].isdigit():
            low, _, high = values.partition("-")
            return Column(name, int(low), int(high))
        return Column(name, kind=values)


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row."""

    name: str
    columns: tuple[Column, ...]

    @property
    def label(self) -> Column:
        return self.columns[0]

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def plural(self) -> str:
        """The entity in the plural: city is "cities", bus is "buses"."""
        if self.words.endswith("y") and self.words[-2] not in "aeiou":
            return self.words[:-1] + "ies"
        return self.words + ("es" if self.words.endswith(("s", "x", "ch", "sh")) else "s")

    def create(self) -> str:
        """The CREATE TABLE statement."""
        columns = ", ".join(f"{column.name} {'INTEGER' if column.is_number else 'TEXT'}" for column in self.columns)
        return f"CREATE TABLE {self.name} ({columns})"


@dataclass(frozen=True)
class Condition:
    """`column operator value`, or column BETWEEN value AND upper."""

    column: Column
    operator: str
    value: int | str
    upper: int = 0

    def sql(self) -> str:
        if self.operator == "BETWEEN":
            return f"{self.column.name} BETWEEN {self.value} AND {self.upper}"
        return f"{self.column.name} {self.operator} {literal(self.value)}"


@dataclass(frozen=True)
class Query:
    """What is asked of one table, independent of its wording."""

    kind: str  # a key of QUESTIONS
    table: Table
    select: tuple[Column, ...]
    aggregate: str = ""  # of the last selected column; COUNT without a column counts rows
    distinct: bool = False
    where: tuple[Condition, ...] = ()
    connector: str = "AND"
    grouped: bool = False  # by the first selected column
    order: Column | None = None
    descending: bool = False
    limit: int = 0

    def sql(self) -> str:
        parts = [f"SELECT {self._selection()} FROM {self.table.name}"]
        if self.where:
            parts.append("WHERE " + f" {self.connector} ".join(condition.sql() for condition in self.where))
        if self.grouped:
            parts.append(f"GROUP BY {self.select[0].name}")
        if self.order:
            parts.append(f"ORDER BY {self.order.name} {'DESC' if self.descending else 'ASC'}")
        if self.limit:
            parts.append(f"LIMIT {self.limit}")
        return " ".join(parts)

    def _selection(self) -> str:
        names = [column.name for column in self.select]
        distinct = "DISTINCT " if self.distinct else ""
        if not self.aggregate:
            return distinct + ", ".join(names)
        if self.aggregate == "COUNT" and not self.distinct:
            return ", ".join([*names, "COUNT(*)"])
        return ", ".join([*names[:-1], f"{self.aggregate}({distinct}{names[-1]})"])


def literal(value: int | str) -> str:
    """A value as SQL writes it."""
    return f"'{value}'" if isinstance(value, str) else str(value)


# --- wording -------------------------------------------------------------------------------------------------------

# Each list says the same thing in several ways; a style is an index that two joined conditions share.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "text =": ("whose {c} is {v}", "with {c} {v}", "where the {c} is {v}", "having {v} as {c}"),
    "=": ("whose {c} is {v}", "with a {c} of {v}", "where the {c} is {v}", "having a {c} of exactly {v}"),
    ">": ("whose {c} is above {v}", "with a {c} over {v}", "where the {c} is more than {v}",
          "having a {c} greater than {v}"),
    "<": ("whose {c} is below {v}", "with a {c} under {v}", "where the {c} is less than {v}",
          "having a {c} smaller than {v}"),
    ">=": ("whose {c} is at least {v}", "with a {c} of {v} or more", "where the {c} is at least {v}",
           "having a {c} of at least {v}"),
    "<=": ("whose {c} is at most {v}", "with a {c} of {v} or less", "where the {c} is at most {v}",
           "having a {c} of at most {v}"),
    "BETWEEN": ("whose {c} is between {v} and {u}", "with a {c} from {v} to {u}",
                "where the {c} is between {v} and {u}", "having a {c} between {v} and {u}"),
}  # fmt: skip
STYLES = 4

AGGREGATES = {
    "AVG": ("average", "mean"),
    "SUM": ("total", "summed"),
    "MAX": ("highest", "maximum", "largest"),
    "MIN": ("lowest", "minimum", "smallest"),
}

# {s} what is selected, {n} the entities, {one} the entity, {w} the conditions, {a} the aggregate, {o} the column of
# the order, {k} the limit, {d} most or least.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "select": ("What is the {s} of the {n} {w}?", "Show the {s} of all {n} {w}.", "List the {s} of the {n} {w}.",
               "Give me the {s} for {n} {w}.", "Find the {s} of every {one} {w}."),
    "which": ("Which {n} are there {w}?", "List all {n} {w}.", "Name the {n} {w}.", "Find every {one} {w}."),
    "count": ("How many {n} are there {w}?", "Count the {n} {w}.", "What is the number of {n} {w}?",
              "Give me the number of {n} {w}."),
    "aggregate": ("What is the {a} {s} of the {n} {w}?", "Show the {a} {s} of all {n} {w}.",
                  "Find the {a} {s} for {n} {w}.", "Give me the {a} {s} of the {n} {w}."),
    "top": ("Which {one} has the {d} {o}?", "Name the {one} with the {d} {o}.", "Find the {one} that has the {d} {o}."),
    "top_k": ("List the {k} {n} with the {d} {o}.", "Which {k} {n} have the {d} {o}?",
              "Name the {k} {n} that have the {d} {o}."),
    "order": ("List the {s} of all {n} by {d} {o} first.", "Show the {s} of the {n} sorted by {o}, {d} first.",
              "Give me the {s} of the {n} ordered by {o}, {d} first."),
    "distinct": ("What are the different {s} values of the {n} {w}?", "List each distinct {s} of the {n} {w}.",
                 "Show the unique {s} values of all {n} {w}."),
    "count_distinct": ("How many different {s} values do the {n} have?", "Count the distinct {s} values of the {n}.",
                       "What is the number of unique {s} values of the {n}?"),
    "group_count": ("How many {n} are there for each {s}?", "Count the {n} per {s}.",
                    "Show each {s} and the number of {n}."),
    "group_aggregate": ("What is the {a} {s} of the {n} for each {g}?", "Show the {a} {s} of the {n} per {g}.",
                        "Find each {g} and the {a} {s} of its {n}."),
}  # fmt: skip


def ask(query: Query, rng: random.Random) -> str:
    """One of the ways to ask `query` in English."""
    words = [column.words for column in query.select]
    grouped_aggregate = query.kind == "group_aggregate"
    fields = {
        "s": words[-1] if grouped_aggregate else " and ".join(words),
        "g": "".join(words[:1]),
        "n": query.table.plural,
        "one": query.table.words,
        "w": conditions(query, rng),
        "a": rng.choice(AGGREGATES.get(query.aggregate, ("",))),
        "o": query.order.words if query.order else "",
        "k": query.limit,
        "d": rng.choice(AGGREGATES["MAX" if query.descending else "MIN"]),
    }
    return rng.choice(QUESTIONS[query.kind]).format(**fields).replace(" ?", "?").replace(" .", ".")


def conditions(query: Query, rng: random.Random) -> str:
    """The conditions of `query` in English."""
    style, quoted = rng.randrange(STYLES), rng.random() < 0.5
    return f" {query.connector.lower()} ".join(_condition(condition, style, quoted) for condition in query.where)


def _condition(condition: Condition, style: int, quoted: bool) -> str:
    is_text = isinstance(condition.value, str)
    phrase = CONDITIONS[f"text {condition.operator}" if is_text else condition.operator][style]
    value = literal(condition.value) if quoted else condition.value
    return phrase.format(c=condition.column.words, v=value, u=condition.upper)


# --- tables and rows -----------------------------------------------------------------------------------------------


def invented_name(rng: random.Random) -> str:
    """A capitalised word of two or three syllables that is in no dictionary."""
    syllables = rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))
    return ("".join(syllables) + rng.choice(CODAS)).capitalize()


VALUES: dict[str, Callable[[random.Random], str]] = {
    "place": invented_name,
    "person": lambda rng: f"{invented_name(rng)} {invented_name(rng)}" if rng.random() < 0.5 else invented_name(rng),
    "title": lambda rng: " ".join(rng.sample(TITLE_WORDS, 2)),
    "code": lambda rng: f"{''.join(rng.choices(CODE_LETTERS, k=2))}-{rng.randint(10, 99)}",
}


def sample_table(rng: random.Random, held_out: bool) -> Table:
    """A table of a random domain. A held-out one has a held-out entity and at least one held-out column."""
    domain = rng.choice(DOMAINS)
    count = rng.choice(COLUMNS_PER_TABLE)
    columns = [Column.parse(text) for text in domain.columns.split()]
    if held_out:
        unseen = [Column.parse(text) for text in domain.held_out_columns.split()]
        new = rng.sample(unseen, rng.choice((1, 2)))
        chosen = new + rng.sample(columns, count - len(new))
    else:
        chosen = rng.sample(columns, count)
    rng.shuffle(chosen)
    entity = rng.choice((domain.held_out_entities if held_out else domain.entities).split())
    return Table(entity, (Column(domain.label, kind=domain.label_values), *chosen))


def sample_rows(table: Table, rng: random.Random) -> list[tuple[int | str, ...]]:
    """Rows whose text columns, but for the label, repeat a few values."""
    columns = [_sample_column(column, rng, unique=column is table.label) for column in table.columns]
    return list(zip(*columns, strict=True))


def _sample_column(column: Column, rng: random.Random, unique: bool) -> list[int | str]:
    if column.is_number:
        return [rng.randint(column.low, column.high) for _ in range(ROWS_PER_TABLE)]
    distinct = ROWS_PER_TABLE if unique else 3
    values = rng.sample(column.choices, distinct) if column.choices else _distinct(VALUES[column.kind], distinct, rng)
    return list(values) if unique else rng.choices(values, k=ROWS_PER_TABLE)


def _distinct(draw: Callable[[random.Random], str], count: int, rng: random.Random) -> list[str]:
    values: dict[str, None] = {}
    while len(values) < count:
        values[draw(rng)] = None
    return list(values)


def insert(table: Table, rows: list[tuple[int | str, ...]]) -> str:
    """The INSERT statement that fills `table`."""
    tuples = ", ".join("(" + ", ".join(literal(value) for value in row) + ")" for row in rows)
    return f"INSERT INTO {table.name} VALUES {tuples}"


# --- queries -------------------------------------------------------------------------------------------------------

Rows = list[tuple[int | str, ...]]
OPERATORS = (">", "<", ">", "<", "=", ">=", "<=", "BETWEEN")
OPPOSITES = {">": "<", "<": ">", ">=": "<=", "<=": ">="}


def sample_query(kind: str, table: Table, rows: Rows, rng: random.Random) -> Query | None:
    """A query of `kind`, its values taken from `rows`. None when the table lacks the columns for it."""
    numbers = [column for column in table.columns if column.is_number]
    texts = [column for column in table.columns[1:] if not column.is_number]
    if not numbers or not texts:
        return None
    return SAMPLERS[kind](Sampler(table, rows, numbers, texts, rng))


@dataclass(frozen=True)
class Sampler:
    """What the functions in SAMPLERS draw from."""

    table: Table
    rows: Rows
    numbers: list[Column]
    texts: list[Column]
    rng: random.Random

    def columns(self, count: int = 1) -> tuple[Column, ...]:
        return tuple(self.rng.sample(self.table.columns, count))

    def number(self) -> Column:
        return self.rng.choice(self.numbers)

    def text(self) -> Column:
        return self.rng.choice(self.texts)

    def where(self, *counts: int, besides: tuple[Column, ...] = ()) -> dict:
        """Keyword arguments of Query: as many conditions as one of `counts`, on columns that are not `besides`."""
        free = [column for column in self.table.columns[1:] if column not in besides]
        columns = self.rng.sample(free, min(self.rng.choice(counts), len(free)))
        return {
            "where": tuple(self._condition(column) for column in columns),
            "connector": self.rng.choice(("AND", "OR")) if len(columns) > 1 else "AND",
        }

    def _condition(self, column: Column) -> Condition:
        value, other = self.rng.sample([row[self.table.columns.index(column)] for row in self.rows], 2)
        if isinstance(value, str) or isinstance(other, str):
            return Condition(column, "=", value)
        operator = self.rng.choice(OPERATORS)
        if operator == "BETWEEN":
            return Condition(column, operator, min(value, other), max(value, other))
        return Condition(column, operator, value)

    def aggregate(self) -> str:
        return self.rng.choice(list(AGGREGATES))

    def order(self) -> dict:
        """Keyword arguments of Query: sort by a number, up or down."""
        return {"order": self.number(), "descending": self.rng.random() < 0.5}


def _select(s: Sampler) -> Query:
    columns = s.columns(s.rng.choice((1, 1, 2)))
    return Query("select", s.table, columns, **s.where(1, 1, 2, besides=columns))


def _aggregate(s: Sampler) -> Query:
    column = s.number()
    return Query("aggregate", s.table, (column,), s.aggregate(), **s.where(0, 1, 1, besides=(column,)))


def _distinct_values(s: Sampler) -> Query:
    column = s.text()
    return Query("distinct", s.table, (column,), distinct=True, **s.where(0, 1, besides=(column,)))


SAMPLERS: dict[str, Callable[[Sampler], Query]] = {
    "select": _select,
    "which": lambda s: Query("which", s.table, (s.table.label,), **s.where(1, 1, 2)),
    "count": lambda s: Query("count", s.table, (), "COUNT", **s.where(0, 1, 1, 2)),
    "aggregate": _aggregate,
    "top": lambda s: Query("top", s.table, (s.table.label,), limit=1, **s.order()),
    "top_k": lambda s: Query("top_k", s.table, (s.table.label,), limit=s.rng.randint(2, 5), **s.order()),
    "order": lambda s: Query("order", s.table, s.columns(), **s.order()),
    "distinct": _distinct_values,
    "count_distinct": lambda s: Query("count_distinct", s.table, (s.text(),), "COUNT", distinct=True),
    "group_count": lambda s: Query("group_count", s.table, (s.text(),), "COUNT", grouped=True),
    "group_aggregate": lambda s: Query("group_aggregate", s.table, (s.text(), s.number()), s.aggregate(), grouped=True),
}
WEIGHTS = {"select": 4, "which": 3, "count": 3, "aggregate": 2}  # the others weigh 1


def sample_kind(rng: random.Random) -> str:
    """A kind of question, those with conditions more often."""
    return rng.choices(list(SAMPLERS), [WEIGHTS.get(kind, 1) for kind in SAMPLERS])[0]


def near_misses(query: Query) -> Iterator[Query]:
    """Wrong queries close to `query`, whose results must differ from its own."""
    for index, condition in enumerate(query.where):
        before, after = query.where[:index], query.where[index + 1 :]
        yield replace(query, where=before + after)
        if condition.operator in OPPOSITES:
            yield replace(query, where=(*before, replace(condition, operator=OPPOSITES[condition.operator]), *after))
    if len(query.where) > 1:
        yield replace(query, connector="OR" if query.connector == "AND" else "AND")
    if query.order:
        yield replace(query, descending=not query.descending)
        yield replace(query, limit=query.limit + 1 if query.limit else 1)
    if query.aggregate in AGGREGATES:
        yield from (replace(query, aggregate=other) for other in AGGREGATES if other != query.aggregate)
    if query.distinct:
        yield replace(query, distinct=False)
    if query.kind not in ("count", "group_count"):
        yield from _other_columns(query)


def _other_columns(query: Query) -> Iterator[Query]:
    *before, last = query.select
    for column in query.table.columns:
        if column not in query.select and column.is_number == last.is_number:
            yield replace(query, select=(*before, column))


def is_telling(query: Query, rows: Rows) -> bool:
    """Whether `query` gives a result on `rows`, and none of its near misses gives the same."""
    with sqlite3.connect(":memory:") as database:
        database.execute(query.table.create())
        database.execute(insert(query.table, rows))
        gold = _result(database, query)
        return bool(gold) and all(_result(database, wrong) != gold for wrong in near_misses(query))


def _result(database: sqlite3.Connection, query: Query) -> list[tuple]:
    result = database.execute(query.sql()).fetchall()
    return result if query.order else sorted(result)


# --- the data set --------------------------------------------------------------------------------------------------


def make_example(rng: random.Random, held_out: bool) -> dict[str, str]:
    """One line of the data set."""
    kind = sample_kind(rng)
    while True:
        table = sample_table(rng, held_out)
        rows = sample_rows(table, rng)
        query = sample_query(kind, table, rows, rng)
        if query and is_telling(query, rows):
            break
    return {
        "question": ask(query, rng),
        "context": table.create(),
        "answer": query.sql(),
        "rows": insert(table, rows),
    }


def write_examples(
    path: Path, count: int, make: Callable[[], dict[str, Any]], key_of: Callable[[dict[str, Any]], Any]
) -> None:
    """Write `count` examples of different keys, one JSON object a line."""
    seen: set[Any] = set()
    with path.open("w", encoding="utf-8") as file:
        while len(seen) < count:
            example = make()
            key = key_of(example)
            if key not in seen:
                seen.add(key)
                file.write(json.dumps(example) + "\n")
                events.progress(len(seen), count, path.stem)


def flags(description: str | None = __doc__, train_rows: int = 6000, eval_rows: int = 200) -> argparse.ArgumentParser:
    """The flags of a program that makes such a data set, with its default sizes."""
    options = program.parser(description)
    options.add_argument("--output", type=Path, required=True, help="folder for train.jsonl and eval.jsonl")
    options.add_argument("--seed", type=int, default=7, help="the same seed gives the same files")
    options.add_argument("--train-rows", type=program.at_least(1), default=train_rows, help="examples to train on")
    options.add_argument("--eval-rows", type=program.at_least(1), default=eval_rows, help="held-out examples")
    return options


def write_splits(
    args: argparse.Namespace, make: Callable[..., dict[str, Any]], key_of: Callable[[dict[str, Any]], Any]
) -> None:
    """Write train.jsonl and eval.jsonl; `make(rng, held_out)` makes an example, and no two have the same key."""
    args.output.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", args.train_rows), ("eval", args.eval_rows)):
        rng, held_out = random.Random(f"{split} {args.seed}"), split == "eval"
        write_examples(args.output / f"{split}.jsonl", count, partial(make, rng, held_out), key_of)


def run(args: argparse.Namespace) -> None:
    """Write both files."""
    write_splits(args, make_example, itemgetter("context", "question"))


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
