from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ASSETS = ROOT / "recipes" / "assets" / "sql_chat"


def conversations(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def test_the_shipped_files_are_what_the_program_writes(tmp_path: Path) -> None:
    command = [sys.executable, "recipes/assets/make_sql_chat.py", "--output", tmp_path, "--train-rows", "50"]
    subprocess.run(command, cwd=ROOT, check=True, env={"PYTHONPATH": "scripts"}, capture_output=True)
    assert conversations(tmp_path, "train") == conversations(ASSETS, "train")[:50]
    assert (tmp_path / "eval.jsonl").read_bytes() == (ASSETS / "eval.jsonl").read_bytes()


def test_both_answers_run_and_find_something_else() -> None:
    for row in conversations(ASSETS, "train") + conversations(ASSETS, "eval"):
        with sqlite3.connect(":memory:") as database:
            database.execute(row["context"])
            database.execute(row["rows"])
            first, second = (database.execute(row["messages"][turn]["content"]).fetchall() for turn in (2, 4))
        assert first
        assert second
        assert row["messages"][2] != row["messages"][4]
