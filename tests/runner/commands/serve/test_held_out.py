"""The held-out rows of the run whose adapter a server serves."""

from __future__ import annotations

import json
from pathlib import Path

from records import a_run

from runner.commands.serve import held_out, servers
from runner.record.runs import Run
from tests.runner.serving_run import serving

ROWS = [{"fields": {"question": f"Why {n}?"}, "response": f"Because {n}.", "prompt": f"Q: Why {n}?"} for n in range(2)]


def trained(folder: Path, key: str) -> Run:
    run = a_run(folder, stage="export", key=key)
    file = run.folder / "artifacts" / "tokenize" / "eval.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run


def test_the_rows_are_those_of_the_served_run_and_no_other(tmp_path: Path) -> None:
    served, _ = trained(tmp_path, "export-1"), trained(tmp_path, "export-2")
    with serving(tmp_path, 8000) as run:
        plan = json.loads((run.folder / "plan.json").read_text())
        plan["steps"][0]["argv"] += ["--adapter", "sql=/store/objects/export-1/adapter"]
        (run.folder / "plan.json").write_text(json.dumps(plan))
        server = servers.of_run(Run(run.folder))
        file = held_out.file_of(server, tmp_path / "runs")
    assert file == served.folder / "artifacts" / "tokenize" / "eval.jsonl"
    assert held_out.example(file, 3) == {
        "fields": {"question": "Why 1?"}, "reference": "Because 1.", "turns": [], "number": 1, "count": 2,
    }  # fmt: skip


def test_of_a_run_elsewhere_there_are_none(tmp_path: Path) -> None:
    a_run(tmp_path, stage="export", key="export-1")
    with serving(tmp_path, 8000) as run:
        assert held_out.file_of(servers.of_run(run), tmp_path / "runs") is None
