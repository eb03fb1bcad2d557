"""Runs beside each other, and sweeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

from runner.commands.records import compared
from tests.runner.records import a_run, a_sweep
from tests.runner.trained_run import trained_run
from tests.runner.ui.served import Browser


def test_the_figures_are_those_of_the_command(browser: Browser, tmp_path: Path) -> None:
    runs = [trained_run(tmp_path, f"train.lora.rank={rank}", key=str(rank), accuracy=rank / 32) for rank in (8, 16, 2)]
    page = browser.get(f"/compare?{'&'.join(f'run={run.name}' for run in runs)}").text
    rows = re.findall(r"<tr>.*?</tr>", page.partition("<tbody>")[2].partition("</tbody>")[0], re.S)
    ranked = compared(runs)
    assert [re.findall(r'href="/runs/([^"]+)"', row) for row in rows] == [[run["run"]] for run in ranked]
    for row, run in zip(rows, ranked, strict=True):
        values = re.findall(r'data-value="([^"]*)"', row)
        assert values[0] == str(run["keys"]["train.lora.rank"])
        assert str(run["metrics"]["adapter.execution_accuracy"]) in values


def test_one_run_alone_is_not_compared(browser: Browser, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert browser.get(f"/compare?run={run.name}").json() == {"error": "tick two or more runs to compare them"}
    assert browser.get(f"/compare?run={run.name}&run=nothing").status == 404


def test_a_sweep_is_ranked_by_its_objective_with_a_link_to_each_trial(browser: Browser, tmp_path: Path) -> None:
    a_sweep(tmp_path, "s", "train.loss", "maximize")
    for number, loss in enumerate((0.5, 0.9, 0.7)):
        a_run(tmp_path, f"train.lora.rank={2**number}", trial=f"s/00{number}", key=f"t{number}", loss=loss)
    page = browser.get("/sweeps/s").text
    assert re.findall(r'href="/runs/s/(\d+)"', page) == ["001", "002", "000"]
    assert "train.loss, maximize" in page and "3 of 3 started" in page


def test_a_sweep_with_two_keys_has_parallel_axes(browser: Browser, tmp_path: Path) -> None:
    folder = a_sweep(tmp_path, "s")
    (folder / "sweep.json").write_text(json.dumps({"objective": "train.loss", "direction": "minimize", "trials": 9}))
    for number, (rank, epochs) in enumerate([(2, 1), (4, 2), (2, 2)]):
        overrides = (f"train.lora.rank={rank}", f"train.epochs={epochs}")
        a_run(tmp_path, *overrides, trial=f"s/00{number}", key=f"t{number}", loss=0.5 + number)
    page = browser.get("/sweeps/s").text
    assert 'class="parallel"' in page and "3 of 9 started" in page


def test_what_is_no_sweep_is_not_found(browser: Browser, tmp_path: Path) -> None:
    a_sweep(tmp_path, "empty")
    for name in ("nothing", "..", "a/b", "empty", "%00"):
        assert browser.get(f"/sweeps/{name}").status == 404
