"""The state of runs, read by Prometheus's own parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from records import waiting

from runner.cli import main
from runner.commands.prometheus import exposition
from runner.execute import agent

AWKWARD = 'a "b" \\c\nd}, e=1'


def samples(text: str) -> dict[str, list]:
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def test_names_and_values_are_read_as_they_were() -> None:
    row = {"run": AWKWARD, "where": "ssh at trn2", "state": "waiting: Resources: 1", "stage": None, "done": 3,
           "total": 8, "loss": 0.25, "seconds": 12.5, "seconds_left": None}  # fmt: skip
    read = samples(exposition([row, {"run": "other", "state": "running", "stage": "train", "seconds": 1e9}]))
    first, other = read["trainium_recipes_run"]
    assert first.labels == {"run": AWKWARD, "where": "ssh at trn2", "state": "waiting", "stage": ""}
    assert other.labels == {"run": "other", "state": "running", "stage": "train"}
    [loss] = read["trainium_recipes_run_loss"]
    assert (loss.labels, loss.value) == ({"run": AWKWARD, "where": "ssh at trn2"}, 0.25)
    assert [sample.value for sample in read["trainium_recipes_run_seconds"]] == [12.5, 1e9]
    assert "trainium_recipes_run_seconds_left" not in read


def test_nothing_in_progress_is_no_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--prometheus", "--in", str(tmp_path)]) == 0
    assert samples(capsys.readouterr().out) == {"trainium_recipes_run": []}


def test_a_run_in_progress_is_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = waiting(tmp_path)
    try:
        assert main(["status", "--prometheus", "--in", str(tmp_path / "runs")]) == 0
    finally:
        agent.cancel(run.folder)
    [sample] = samples(capsys.readouterr().out)["trainium_recipes_run"]
    assert (sample.labels["run"], sample.labels["state"]) == (run.name, "running")
