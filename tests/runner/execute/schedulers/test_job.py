"""The job of a run: its ids are kept in the run folder, and its scheduler is asked now and then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.execute import agent
from runner.execute.schedulers import base, job
from runner.execute.schedulers.base import Refused, Unreachable


class Fake(base.Scheduler):
    """A scheduler with the `states` that it answers in turn; an exception among them is raised."""

    def __init__(self, *states: str | Exception):
        self.states, self.cancelled = list(states), []

    def submit(self, plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
        if self.states == [Refused]:
            raise Refused("invalid partition")
        assert all(json.loads((run / "scheduled.json").read_text())["ids"] == [] for run in plans)
        return [[f"7_{number}"] for number in range(len(plans))]

    def submission(self, plan: Mapping[str, Any], run: str) -> str:
        return run

    def state(self, ids: Sequence[str]) -> str:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return state

    def reason(self, ids: Sequence[str]) -> str:
        return "NODE_FAIL"

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two recorded runs whose plans name a scheduler."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps({"job": {"scheduler": "fake"}}))
        (folder / "events.jsonl").touch()
    return folders


def use(monkeypatch: pytest.MonkeyPatch, scheduler: Fake) -> Fake:
    monkeypatch.setattr(job, "_scheduler", lambda name: scheduler)
    monkeypatch.setattr(job, "_POLL", 0.0)
    return scheduler


def test_submitted_runs_keep_their_ids(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Fake("waiting: Priority"))
    assert job.of_run(runs[0]) is None
    agent.submit(runs)
    assert json.loads((runs[1] / "scheduled.json").read_text()) == {"scheduler": "fake", "ids": ["7_1"]}
    assert agent.state(runs[0]) == "waiting: Priority"


def test_a_refused_run_leaves_no_folder(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Fake(Refused))  # type: ignore[arg-type]
    with pytest.raises(Refused):
        agent.submit(runs)
    assert not any(run.exists() for run in runs)


def test_a_job_that_its_scheduler_gave_up_is_submitted_again_once(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class GivesUp(Fake):
        def submit(self, plans: Mapping[Path, Mapping[str, Any]]) -> list[list[str]]:
            return [["8"] for _ in plans]

        def state(self, ids: Sequence[str]) -> str:
            return base.GAVE_UP if ids == ["7"] else "running"

    use(monkeypatch, GivesUp())
    job._record(runs[0], "fake", ["7"])
    seen, other = job.of_run(runs[0]), job.of_run(runs[0])
    assert seen and other
    monkeypatch.setattr(job, "_POLL", 60.0)
    for one in (seen, other):
        assert one.state() == "waiting: submitted again, because its scheduler gave up on it"
        assert one.ids == ["8"] == job._recorded(runs[0])["ids"]
    job._record(runs[1], "fake", ["7"])
    (runs[1] / "cancelled").touch()
    assert agent.state(runs[1]) == "killed"
    assert job._recorded(runs[1])["ids"] == ["7"]


def test_the_last_state_holds_while_nobody_answers(tmp_path: Path) -> None:
    seen = job.Job(tmp_path, Fake("waiting: Priority", Unreachable()), ["7"])
    seen._asked = -10.0
    assert seen.state() == seen.state() == "waiting: Priority"


def test_without_a_last_state_it_is_said_that_nobody_answers(tmp_path: Path) -> None:
    seen = job.Job(tmp_path, Fake(Unreachable("Unable to contact slurm controller"), "running"), ["7"])
    assert seen.state() == "cannot be asked: Unable to contact slurm controller"
    seen._asked = -10.0
    assert seen.state() == "running"


def test_a_job_that_was_never_submitted_is_gone(tmp_path: Path) -> None:
    assert job.Job(tmp_path, Fake("running"), []).state() == "gone"


def test_cancel_reports_a_job_that_never_began(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = use(monkeypatch, Fake("waiting: Priority", "gone"))
    agent.submit(runs[:1])
    (runs[0] / "secrets.json").touch()
    assert agent.cancel(runs[0]) == "stopped"
    assert scheduler.cancelled == ["7_0"]
    assert not (runs[0] / "secrets.json").exists()
    assert [line.strip() for line in agent.follow(runs[0]) if line] == (
        (runs[0] / "events.jsonl").read_bytes().splitlines()
    )


def test_a_follower_learns_why_a_job_ended(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Fake("gone"))
    agent.submit(runs[:1])
    (runs[0] / "executor.log").write_text("slurmstepd: lost the node\n")
    [line] = agent.follow(runs[0])
    message = json.loads(line)["message"]
    assert message == "job 7_0 ended: NODE_FAIL; its last output: slurmstepd: lost the node"
