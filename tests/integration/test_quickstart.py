"""The quickstart, whole, as a newcomer runs it; and runs that are killed and started again."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = ["run", "quickstart", "evaluate=none", "train.max_steps=12", "train.checkpoint_every=2"]


def start(folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-u", "-m", "runner", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def newest(folder: Path) -> Path:
    return max((folder / "runs").iterdir(), key=lambda run: run.stat().st_ctime_ns)


def states(run: Path) -> dict[str, str]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return {event["stage"]: event["state"] for event in events if event["event"] == "step"}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    print(finish(folder, "run", "quickstart"))
    return folder


def test_the_adapter_learns_what_the_base_cannot(quickstart: Path) -> None:
    report = json.loads((newest(quickstart) / "artifacts" / "evaluate" / "report.json").read_text())
    assert report["examples"] >= 100
    assert report["base"]["execution_accuracy"] <= 0.10
    assert report["adapter"]["execution_accuracy"] >= 0.60
    assert report["adapter"]["loss"] < report["base"]["loss"]


def test_served_answers_are_the_evaluations_and_not_the_bases(quickstart: Path) -> None:
    smoke = json.loads((newest(quickstart) / "artifacts" / "serve" / "smoke.json").read_text())
    assert smoke["equal_to_evaluation"] == smoke["prompts"] > 0
    assert smoke["differs_from_base"] > 0


def test_a_second_run_redoes_only_the_smoke_test(quickstart: Path) -> None:
    finish(quickstart, "run", "quickstart")
    assert states(newest(quickstart)) == {
        **dict.fromkeys(("fetch", "tokenize", "convert", "train", "export", "evaluate"), "cached"),
        "serve": "finished",
    }


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", ["runner", "executor", "step"])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, victim: str) -> None:
    process = start(tmp_path, *SHORT)
    assert process.stdout
    for line in process.stdout:
        if "steps in total" in line:  # the trainer's first words
            break
    executor = children(process.pid)[0]
    step = children(executor)[0]
    ends = [os.pidfd_open(pid) for pid in (executor, step)]
    os.kill({"runner": process.pid, "executor": executor, "step": step}[victim], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    for end in ends:
        assert select.select([end], [], [], 30)[0], "a process outlived the run"
    assert not list((tmp_path / "store" / "objects").glob("train-*"))
    finish(tmp_path, *SHORT)
    after = states(newest(tmp_path))
    assert [after[stage] for stage in ("fetch", "tokenize", "convert")] == ["cached"] * 3
    assert (after["train"], after["export"]) == ("finished", "finished")
