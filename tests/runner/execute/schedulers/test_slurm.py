"""Batch scripts, and the states that squeue prints; the cluster itself is in tests/integration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.execute.schedulers import slurm
from runner.execute.schedulers.base import Refused, Unreachable

PLAN = {
    "recipe": "my recipe",
    "job": {
        "python": "python3", "code": "/shared/code/1", "at_once": 4,
        "parts": [
            {"steps": ["convert"], "options": {"cpus-per-task": "8"}, "memory": "4096M"},
            {
                "steps": ["train", "export"],
                "options": {"requeue": "false", "gres": "neuron:16", "mem-per-cpu": "2G"},
                "memory": "9M",
            },
        ],
    },
}  # fmt: skip
CORES_ALONE = "SchedulerType           = sched/backfill\nSelectTypeParameters    = CR_CORE\n"


def test_a_script_per_part_with_the_users_options_instead_of_ours() -> None:
    convert, train = slurm.Scheduler().submission(PLAN, "runs/NAME").split("#!/bin/sh\n")[1:]
    assert '#SBATCH --job-name="my recipe"\n#SBATCH --requeue\n' in convert
    assert "#SBATCH --cpus-per-task=8\n" in convert
    assert '#SBATCH --comment="recipe=my recipe user=USER"\n' in convert
    assert "#SBATCH --mem=4096M\n" in convert and "#SBATCH --mem=" not in train
    assert "--requeue" not in train and "#SBATCH --gres=neuron:16\n" in train
    assert "exec python3 -m runner.execute.schedulers.slurm --steps train,export runs/NAME\n" in train


def test_an_array_gives_each_element_its_run() -> None:
    plan = {**PLAN, "job": {**PLAN["job"], "parts": PLAN["job"]["parts"][:1]}}
    script = slurm.array_script({Path("runs/one"): plan, Path("runs/it's"): plan})
    assert "#SBATCH --array=0-1%4\n" in script
    assert "set -- runs/one 'runs/it'\"'\"'s'\nshift $SLURM_ARRAY_TASK_ID\n" in script


@pytest.mark.parametrize(("parameters", "asked"), [("CR_CORE", False), ("CR_CORE_MEMORY", True), ("CR_MEMORY", True)])
def test_memory_is_asked_for_where_slurm_allocates_it(
    monkeypatch: pytest.MonkeyPatch, parameters: str, asked: bool
) -> None:
    scripts = []

    def output(command: Sequence[str], env: object = None, script: str = "") -> str:
        scripts.append(script)
        return CORES_ALONE.replace("CR_CORE", parameters)

    monkeypatch.setattr(slurm, "command_output", output)
    slurm.Scheduler().submit({Path("runs/one"): PLAN})
    assert ["#SBATCH --mem=4096M\n" in script for script in scripts[1:]] == [asked, False]


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str | Exception) -> list[list[str]]:
    """Answer Slurm's commands in turn; returns the list that collects them."""
    commands: list[list[str]] = []

    def output(command: Sequence[str], *_: object) -> str:
        commands.append(list(command))
        answer = answers[min(len(commands), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "command_output", output)
    return commands


@pytest.mark.parametrize(
    ("listing", "state"),
    [
        ("", "gone"),
        ("PENDING|Priority|N/A\n", "waiting: Priority"),
        ("PENDING|Resources|2026-11-26T18:05:59\n", "waiting: Resources, expected to start 2026-11-26 18:05"),
        ("RUNNING|None|2026-11-26T18:05:59\nPENDING|Dependency|N/A\n", "running"),
        ("COMPLETING|None|N/A\n", "running"),
        (Refused("slurm_load_jobs error: Invalid job id specified"), "gone"),
    ],
)
def test_the_state_of_all_jobs_of_a_run(monkeypatch: pytest.MonkeyPatch, listing: str | Exception, state: str) -> None:
    answering(monkeypatch, listing)
    assert slurm.Scheduler().state(["7", "8"]) == state


def test_a_controller_that_is_down_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, Refused("Unable to contact slurm controller"))
    with pytest.raises(Unreachable):
        slurm.Scheduler().state(["7"])


def test_the_reason_is_of_the_first_job_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "JobState=COMPLETED Reason=None", "JobId=8 JobState=FAILED Reason=NonZeroExitCode")
    assert slurm.Scheduler().reason(["7", "8"]) == "FAILED (NonZeroExitCode)"


def test_parts_wait_for_each_other_and_a_refused_one_cancels_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = answering(monkeypatch, CORES_ALONE, "7;cluster\n", Refused("invalid gres"), "")
    with pytest.raises(Refused, match="invalid gres"):
        slurm.Scheduler().submit({Path("runs/one"): PLAN})
    assert commands[2] == ["sbatch", "--parsable", "--dependency=afterok:7", "--kill-on-invalid-dep=yes"]
    assert commands[3] == ["scancel", "--quiet", "7"]
