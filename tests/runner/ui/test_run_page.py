"""The page of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.execute import files
from runner.execute.run_folder import LOCK
from runner.record.runs import Run
from tests.runner.records import a_run, a_sweep, ended
from tests.runner.trained_run import trained_run
from tests.runner.ui.served import Browser


def test_a_page_has_what_the_report_has(browser: Browser, tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    page = browser.get(f"/runs/{run.name}").text
    for heading in ("Training", "Base against adapter", "Stages", "Configuration", "Log", "Next"):
        assert f"<h2>{heading}</h2>" in page
    assert '<span class="base">12.5%</span> →' in page and "<strong>75.0%</strong>" in page
    assert "runner report" in page
    assert 'data-live=""' in page  # nothing of it changes any more


@pytest.mark.parametrize(
    "name", ["nothing", "..", "../runs", "%2e%2e", "%2e%2e%2fruns", "a/b/c", "%00", "sweeps/s", "n" * 300]
)
def test_what_is_no_run_is_not_found(browser: Browser, tmp_path: Path, name: str) -> None:
    a_run(tmp_path)
    assert browser.get(f"/runs/{name}").status == 404


def test_a_trial_leads_to_its_sweep(browser: Browser, tmp_path: Path) -> None:
    a_sweep(tmp_path, "s")
    a_run(tmp_path, trial="s/000")
    assert 'href="/sweeps/s"' in browser.get("/runs/s/000").text


def test_a_damaged_record_is_named(browser: Browser, tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run.folder / "recipe.yaml").write_text(":")
    answer = browser.get(f"/runs/{run.name}", Accept="text/html")
    assert answer.status == 400 and "recipe.yaml" in answer.text


def unfinished(folder: Path) -> Run:
    """A run whose executor has not reported an end."""
    run = trained_run(folder, steps=range(1, 9))
    lines = (run.folder / "events.jsonl").read_text().splitlines(keepends=True)
    training = next(n for n, line in enumerate(lines) if '"metric"' in line)
    progress = json.dumps({"event": "progress", "stage": "train", "time": 2.0, "done": 4, "total": 8, "unit": "step"})
    (run.folder / "events.jsonl").write_text("".join([*lines[: training + 4], progress, "\n"]))
    return Run(run.folder)


def test_a_run_in_progress_grows(browser: Browser, tmp_path: Path) -> None:
    run = unfinished(tmp_path)
    with (run.folder / LOCK).open("wb") as lock:
        assert files.try_lock(lock)
        assert f'data-live="/api/runs/{run.name}"' in browser.get(f"/runs/{run.name}").text
        before = browser.get(f"/api/runs/{run.name}").json()
        assert before["active"] and "train: 4/8 step" in before["parts"]["progress"]
        with (run.folder / "events.jsonl").open("a") as events:
            metric = {"event": "metric", "stage": "train", "at": 5, "values": {"loss": 0.125}}
            events.write(json.dumps(metric) + "\n")
        after = browser.get(f"/api/runs/{run.name}").json()
    changed = {name for name, part in after["parts"].items() if part != before["parts"].get(name)}
    assert changed == {"progress", "training"}
    assert "loss 0.125" in after["parts"]["progress"]


def test_the_log_is_that_of_the_last_stage_or_of_the_one_that_is_chosen(browser: Browser, tmp_path: Path) -> None:
    run = ended(tmp_path, "print('<one>'); print('two')")
    assert browser.get(f"/api/log/{run.name}").json() == {"stage": "train", "lines": ["<one>", "two"]}
    assert browser.get(f"/api/log/{run.name}?stage=fetch").json() == {"stage": "fetch", "lines": ["fetched"]}
    assert browser.get(f"/api/log/{run.name}?stage=../../manifest").json()["stage"] == "train"


def test_only_the_end_of_a_long_log_is_sent(browser: Browser, tmp_path: Path) -> None:
    run = ended(tmp_path, "for n in range(100000): print(n)")
    lines = browser.get(f"/api/log/{run.name}").json()["lines"]
    assert (len(lines), lines[-1]) == (200, "99999")


def test_the_next_start_is_filled_in(browser: Browser, tmp_path: Path) -> None:
    run = trained_run(tmp_path, "train.lora.rank=4")
    assert "override=train.lora.rank%3D4" in browser.get(f"/runs/{run.name}").text
