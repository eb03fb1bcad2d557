"""`runner data`: what it prints of a recipe's examples, made by the real stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli import main


def test_examples_are_shown_as_they_are_trained(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Say {number}", "output": f"{number}!"} for number in range(30)]
    Path("rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"instruction": "a" * 900, "output": ""}])
    )
    data = ["dataset=files", "dataset.path=rows.jsonl", "dataset.eval_rows=10", "dataset.seq_len=64"]
    assert main(["data", "quickstart", *data]) == 0
    shown = capsys.readouterr().out
    assert "rows in the format alpaca, written as plain text" in shown
    assert "### Instruction\nSay " in shown
    assert "!</s>⟧" in shown or "!<|end|>⟧" in shown
    assert "longer than seq_len" in shown
    assert "1 of 21 rows have an empty response" in shown or "1 of 10 rows have an empty response" in shown
    (run,) = Path("runs").iterdir()
    assert run.name.endswith("data-quickstart")
    assert [step["stage"] for step in json.loads((run / "plan.json").read_text())["steps"]] == ["fetch", "tokenize"]
