"""A run that a scheduler starts again and again must get somewhere."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from runner.execute import attempts
from runner.execute.executor import execute
from tests.runner.execute.small_plans import WRITE, events, start, step

STARTED, INTERRUPTED = {"event": "run", "state": "started"}, {"event": "run", "state": "interrupted"}
BEGUN, FINISHED = ({"event": "step", "stage": "train", "state": state} for state in ("begun", "finished"))
CHECKPOINT = {"event": "checkpoint", "stage": "train", "at": 7}
IN_VAIN, WITH_CHECKPOINT = [STARTED, BEGUN, INTERRUPTED], [STARTED, BEGUN, CHECKPOINT, INTERRUPTED]
REPORTS = "import json, os; open(os.environ['RUNNER_EVENTS'], 'a').write(json.dumps({event}) + chr(10)); "


@pytest.mark.parametrize(
    ("past", "stalled"),
    [
        ([], False),
        (IN_VAIN, True),
        (WITH_CHECKPOINT, False),
        ([STARTED, BEGUN, FINISHED, BEGUN, INTERRUPTED], False),
        ([*IN_VAIN, *WITH_CHECKPOINT], False),
        ([*WITH_CHECKPOINT, *IN_VAIN], True),
        ([STARTED, BEGUN], False),  # its node died
    ],
)
def test_two_interrupted_attempts_without_progress_are_one_too_many(past: list[dict], stalled: bool) -> None:
    assert attempts.stalled([*past, STARTED, BEGUN]) is stalled
    assert not attempts.stalled([*past, STARTED, BEGUN, CHECKPOINT])


def test_a_run_that_its_time_limit_never_lets_advance_fails_at_the_second_interruption(tmp_path: Path) -> None:
    run, wait = tmp_path / "run", "import signal; print('at work', flush=True); signal.pause()"
    plan = {"store": str(tmp_path / "store"), "steps": [step(tmp_path / "store", "train", wait, resumable=True)]}
    log = run / "logs" / "train.log"
    for attempt, status in ((1, 75), (2, 1)):
        process = start(run, plan)
        while not log.exists() or log.read_text().count("at work") < attempt:
            assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        assert process.wait() == status
    *_, failed, ended = events(run)
    assert (failed["stage"], failed["state"], ended["state"]) == ("train", "failed", "failed")
    assert failed["reason"].startswith("two attempts in a row were interrupted before a checkpoint")
    assert "target.slurm.time" in failed["reason"]


@pytest.mark.parametrize("status", [75, 1])  # torchrun ends with 1, whatever its ranks end with
def test_a_program_that_reports_its_interruption_has_not_failed(tmp_path: Path, status: int) -> None:
    event = json.dumps({"event": "interrupted", "stage": "train", "at": 3})
    ends = step(tmp_path / "store", "train", REPORTS.format(event=event) + f"raise SystemExit({status})")
    plan = {"store": str(tmp_path / "store"), "steps": [ends]}
    assert execute(plan, tmp_path / "run") == 75
    assert events(tmp_path / "run")[-1]["state"] == "interrupted"
    plan["steps"] = [step(tmp_path / "store", "train", "raise SystemExit(1)")]
    assert execute(plan, tmp_path / "run") == 1
    plan["steps"] = [step(tmp_path / "store", "train", WRITE)]
    assert execute(plan, tmp_path / "run") == 0
