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
    [run] = Path("runs").glob("[!.]*")
    assert run.name.endswith("data-quickstart")
    assert [step["stage"] for step in json.loads((run / "plan.json").read_text())["steps"]] == ["fetch", "tokenize"]


def test_settings_without_effect_are_told(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    assert main(["data", "quickstart", "dataset.path=rows.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "note: dataset.eval_path: not used, because it belongs to another dataset.path than rows.jsonl" in said


def test_a_mixture_is_shown_with_its_sources(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    for name, words in (("a", "short"), ("b", "long " * 200)):
        rows = [{"text": f"{name} {number} {words}"} for number in range(30)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["dataset=files", "dataset.path=[a.jsonl,b.jsonl]", "dataset.weights=[2,1]", "dataset.train_rows=12"]
    assert main(["data", "quickstart", *data, "dataset.eval_rows=10", "dataset.seq_len=64", "dataset.long=split"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "a.jsonl" in shown
    assert "train: 4 of 12 examples split, longer than --seq-len 64" in shown
    [run] = Path("runs").glob("[!.]*")
    statistics = json.loads((run / "artifacts" / "tokenize" / "statistics.json").read_text())
    assert [source["used"] for source in statistics["sources"]] == [8, 4]
