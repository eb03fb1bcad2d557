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
    """The run as if its stage had been attempted for `seconds` each on `nodes` machines, and been stopped each time."""
    plan = run.plan
    plan["steps"][0]["nodes"] = nodes
    (run.folder / "plan.json").write_text(json.dumps(plan))
    stream = run.folder / EVENTS
    begun, *_, last = [json.loads(line) for line in stream.read_text().splitlines()]
    now, events = last["time"], []
    for value in seconds:
        step = {"event": "step", "stage": "train", "state": "begun", "time": now}
        events += [
            {**begun, "time": now},
            step,
            {"event": "run", "state": "stopped", "status": 130, "time": now + value},
        ]
        now += value + 1000  # until somebody starts it again
    stream.write_text("".join(json.dumps(event) + "\n" for event in [*events, {**last, "time": now}]))
    return Run(run.folder)


def test_every_attempt_on_every_machine_is_paid(tmp_path: Path) -> None:
    run = a_run(tmp_path, PRICE)
    assert cost.cost(timed(run, 100.0)) == pytest.approx(1.0)
    assert cost.cost(timed(run, 50.0, 150.0, nodes=2)) == pytest.approx(4.0)


def test_an_attempt_that_was_killed_is_paid_until_its_last_event(tmp_path: Path) -> None:
    run = timed(a_run(tmp_path, PRICE), 100.0, 50.0)
    stream = run.folder / EVENTS
    begun, step, _, *rest = stream.read_text().splitlines()
    progress = {"event": "progress", "done": 1, "total": 9, "unit": "step", "time": json.loads(step)["time"] + 40}
    stream.write_text("\n".join([begun, step, json.dumps(progress), *rest]) + "\n")
    assert cost.cost(Run(run.folder)) == pytest.approx(0.9)


def test_an_earlier_version_recorded_the_price_in_the_recipe_alone(tmp_path: Path) -> None:
    run = timed(a_run(tmp_path, PRICE), 100.0)
    file = run.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    assert manifest.pop("price_per_hour") == 36
    file.write_text(json.dumps(manifest))
    assert cost.cost(Run(run.folder)) == pytest.approx(1.0)


def test_without_a_price_nothing_is_shown(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert cost.cost(run) is None and cost.total([cost.cost(run)]) is None and cost.text(None) == ""


def test_tables_and_reports_show_the_cost(tmp_path: Path) -> None:
    paid, free = timed(a_run(tmp_path, PRICE), 100.0), a_run(tmp_path, key="train-2")
    assert cost.total(map(cost.cost, [paid, free])) == pytest.approx(1.0)
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    records.runs([paid, free], console)
    records.show(paid, console)
    assert shown.getvalue().count("$1.00") == 2
    assert "$1.00" in report.write([paid], tmp_path / "one.html").read_text()
    assert "$1.00" in report.write([paid, free], tmp_path / "both.html").read_text()
