"""Following a run: its log, and the exit status by which a script knows how it ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import ended
from trained_run import trained_run

from runner.cli import main


@pytest.mark.parametrize(("program", "status"), [("exit(2)", 2), ("exit('no')", 1), ("exit(7)", 1), ("pass", 0)])
def test_who_follows_a_run_exits_with_the_status_of_its_stage(tmp_path: Path, program: str, status: int) -> None:
    run = ended(tmp_path, program)
    folder = ["--in", str(tmp_path / "runs")]
    assert main(["attach", run.name, *folder]) == status
    assert main(["logs", "-f", run.name, *folder]) == status
    assert main(["logs", "-f", run.name, "--stage", "fetch", *folder]) == 0, "that stage did its work"
    assert main(["logs", run.name, *folder]) == 0, "the log was printed"


def test_an_empty_log_is_explained(tmp_path: Path, capfd) -> None:
    folder = ["--in", str(tmp_path / "runs")]
    first = trained_run(tmp_path)
    again = trained_run(tmp_path)
    assert main(["logs", first.name, *folder]) == 0
    assert capfd.readouterr().err == "runner: evaluate: no output\n"
    assert main(["logs", again.name, "--stage", "train", *folder]) == 0
    assert "cached: the log is in the run" in capfd.readouterr().err


# Reports two of eight steps and a loss.
_TRAINS = """
import json, os
events = (
    {"event": "progress", "done": 1, "total": 8, "unit": "step"},
    {"event": "progress", "done": 2, "total": 8, "unit": "step"},
    {"event": "metric", "at": 2, "values": {"loss": 0.5}},
)
with open(os.environ["RUNNER_EVENTS"], "a") as stream:
    for second, event in enumerate(events):
        print(json.dumps({"time": second + 1.0, "stage": "train", **event}), file=stream)
"""


def test_status_as_json_has_what_a_monitor_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ended(tmp_path, _TRAINS)
    assert main(["status", run.name, "--json", "--in", str(tmp_path / "runs")]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row.pop("seconds") >= 0
    assert row == {
        "run": run.name, "where": "here", "state": "finished", "stage": "train", "done": 2, "total": 8,
        "unit": "step", "loss": 0.5, "seconds_left": 6.0,
    }  # fmt: skip
