"""A run repeated from its record: the same figures to the last bit, or a refusal that says what changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.record import runs

SHORT = [
    "tp_size=1", "train.max_steps=4", "dataset.train_rows=200", "evaluate.examples=6", "evaluate.max_new_tokens=12",
    "serve=none", "train.lora.dropout=0.1",
]  # fmt: skip


def runner(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runner", *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerun")
    done = runner(folder, "run", "quickstart", *SHORT)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_rerun_gives_the_same_figures(folder: Path) -> None:
    done = runner(folder, "rerun", "last")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = runs.every(folder / "runs")
    assert "bit for bit" in done.stdout
    assert {event["state"] for event in second.stages().values()} == {"finished"}, "nothing came from the store"
    figures = {name: value for name, value in first.metrics().items() if "seconds" not in name}
    assert len(figures) >= 12
    assert {name: second.metrics()[name] for name in figures} == figures


def test_a_rerun_of_other_figures_says_so(folder: Path) -> None:
    report = folder / "runs" / runs.every(folder / "runs")[0].name / "results" / "evaluate" / "report.json"
    before = report.read_text()
    content = json.loads(before)
    content["adapter"]["loss"] += 1e-9
    report.write_text(json.dumps(content))
    done = runner(folder, "rerun", report.parent.parent.parent.name)
    report.write_text(before)
    assert done.returncode == 1
    assert "adapter.loss: " in done.stdout


def test_changed_versions_and_inputs_are_refused_unless_forced(folder: Path) -> None:
    first = runs.every(folder / "runs")[0]
    manifest = first.folder / "manifest.json"
    before = manifest.read_text()
    content = json.loads(before)
    content["packages"]["torch"] = "1.0"
    manifest.write_text(json.dumps(content))
    done = runner(folder, "rerun", first.name)
    manifest.write_text(before)
    assert done.returncode == 2
    assert "torch 1.0 -> " in done.stderr
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1
