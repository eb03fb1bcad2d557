"""Make conversations about tables: a question with its SQL, then a follow-up that only makes sense after the first.

The tables, rows and first questions are those of make_sql.py. The follow-up asks the same of other rows ("And with a
length under 300?"), so it is answered by reading the whole conversation.

Input: none, only a seed. Output: `train.jsonl` and `eval.jsonl`, one object a line: `messages` (system, user,
assistant, user, assistant), and `context` and `rows` as in make_sql.py, to execute the last answer on.

Example: PYTHONPATH=scripts python recipes/assets/make_sql_chat.py --output recipes/assets/sql_chat
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import replace

import make_sql as sql
from common import program

SYSTEM = "Answer with one SQL query over this table, and nothing else.\n{context}"
KINDS = ("select", "which", "count", "aggregate", "distinct")  # whose questions have conditions
FOLLOW_UPS = ("And {n} {w}?", "What about {n} {w}?", "The same for {n} {w}, please.", "Now only {n} {w}.")


def make_example(rng: random.Random, held_out: bool) -> dict:
    """A conversation of two questions, whose answers find different rows."""
    while True:
        table = sql.sample_table(rng, held_out)
        rows = sql.sample_rows(table, rng)
        first = sql.sample_query(rng.choice(KINDS), table, rows, rng)
        other = sql.sample_query("select", table, rows, rng)
        if first is None or other is None or not first.where:
            continue
        second = replace(first, where=other.where, connector=other.connector)
        if first.where != second.where and all(sql.is_telling(query, rows) for query in (first, second)):
            break
    words = {"n": table.plural, "w": sql.conditions(second, rng)}
    turns = [
        ("system", SYSTEM.format(context=table.create())),
        ("user", sql.ask(first, rng)),
        ("assistant", first.sql()),
        ("user", rng.choice(FOLLOW_UPS).format(**words)),
        ("assistant", second.sql()),
    ]
    return {
        "messages": [{"role": role, "content": content} for role, content in turns],
        "context": table.create(),
        "rows": sql.insert(table, rows),
    }


def run(args: argparse.Namespace) -> None:
    """Write both files."""
    sql.write_splits(args, make_example, json.dumps)


if __name__ == "__main__":
    sys.exit(program.main(run, sql.flags(__doc__, train_rows=600, eval_rows=100)))
