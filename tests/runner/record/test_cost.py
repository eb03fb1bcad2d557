"""What a run has cost: the time of its stages at the price of its machines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from records import a_run
from rich.console import Console

from runner.commands import records
from runner.execute.run_folder import EVENTS
from runner.record import cost, report
from runner.record.runs import Run

PRICE = "hardware.price_per_hour=36"


def timed(run: Run, *seconds: float, nodes: int = 1) -> Run:
    """The run as if its stage had been attempted for `seconds` each on `nodes` machines."""
    plan = run.plan
    plan["steps"][0]["nodes"] = nodes
    (run.folder / "plan.json").write_text(json.dumps(plan))
    stream = run.folder / EVENTS
    *before, last = stream.read_text().splitlines()
    step = {"event": "step", "stage": "train", "state": "failed", "reason": "killed", "time": json.loads(last)["time"]}
    kept = [line for line in before if "seconds" not in json.loads(line)]
    attempts = [json.dumps({**step, "seconds": value}) for value in seconds]
    stream.write_text("\n".join([*kept, *attempts, last]) + "\n")
    return Run(run.folder)


def test_every_attempt_on_every_machine_is_paid(tmp_path: Path) -> None:
    run = a_run(tmp_path, PRICE)
    assert cost.cost(timed(run, 100.0)) == pytest.approx(1.0)
    assert cost.cost(timed(run, 50.0, 150.0, nodes=2)) == pytest.approx(4.0)


def test_without_a_price_nothing_is_shown(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert cost.cost(run) is None and cost.total([run]) is None and cost.text(None) == ""


def test_tables_and_reports_show_the_cost(tmp_path: Path) -> None:
    paid, free = timed(a_run(tmp_path, PRICE), 100.0), a_run(tmp_path, key="train-2")
    assert cost.total([paid, free]) == pytest.approx(1.0)
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    records.runs([paid, free], console)
    records.show(paid, console)
    assert shown.getvalue().count("$1.00") == 2
    assert "$1.00" in report.write([paid], tmp_path / "one.html").read_text()
    assert "$1.00" in report.write([paid, free], tmp_path / "both.html").read_text()
