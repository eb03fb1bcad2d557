"""What a person sees of an event stream, where the output is a file."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from runner.commands.progress import Follower, StageProgress, last_progress
from runner.plan.model import Step


def shown(*events: dict) -> tuple[Follower, str]:
    steps = [Step(stage, f"do {stage}", f"{stage}-1", (), {}, True, False) for stage in ("convert", "train")]
    output = io.StringIO()
    follower = Follower(steps, Console(file=output, width=100))
    follower.follow(json.dumps(event).encode() for event in events)
    return follower, output.getvalue()


def step(stage: str, state: str, **fields: object) -> dict:
    return {"event": "step", "stage": stage, "state": state, **fields}


def test_stages_are_numbered_and_timed() -> None:
    follower, text = shown(
        {"event": "run", "state": "started"},
        step("convert", "begun"),
        step("convert", "cached", seconds=0.1),
        step("train", "begun"),
        {"event": "progress", "stage": "train", "done": 1, "total": 4, "unit": "step"},
        {"event": "metric", "stage": "train", "at": 1, "values": {"loss": 2.5}},
        {"event": "log", "stage": "train", "level": "warning", "message": "resumed from step 1"},
        step("train", "finished", seconds=12.34),
        {"event": "run", "state": "finished", "status": 0},
    )
    lines = text.splitlines()
    assert lines[0].startswith("[1/2] do convert") and lines[0].endswith("cached")
    assert lines[1].strip() == "resumed from step 1"
    assert lines[2].startswith("[2/2] do train") and lines[2].endswith("12.3 s")
    assert follower.seconds == {"train": 12.34}
    assert follower.state == "finished"


@pytest.mark.parametrize(("width", "speed"), [(80, ""), (120, " · 1,235 tokens/s"), (200, " · 1,235 tokens/s")])
def test_the_line_of_the_current_step_fits_the_terminal(width: int, speed: str) -> None:
    output = io.StringIO()
    title = "train LoRA of rank 16 on 2 nodes of 32 cores each, 64 ranks in all"
    console = Console(file=output, width=width, force_terminal=True, color_system=None)
    events = [
        step("train", "begun"),
        {"event": "progress", "stage": "train", "done": 1234, "total": 3260, "unit": "step"},
        {"event": "metric", "stage": "train", "at": 1, "values": {"loss": 0.0412345, "tokens_per_second": 1234.56}},
    ]
    Follower([Step("train", title, "train-1", (), {}, True, False)], console).follow(
        json.dumps(event).encode() for event in events
    )
    plain = re.sub(r"\x1b\[[\d?]*[a-zA-Z]", "", output.getvalue())
    line = next(line for line in re.split(r"[\r\n]", plain) if "loss" in line)
    assert line.startswith("[1/1] train LoRA of rank 16") and f"loss 0.04123{speed}" in line
    assert "1234/3260 step" in line and len(line.rstrip()) <= width


def test_who_waits_says_for_whom() -> None:
    _, text = shown(step("convert", "begun"), step("convert", "waiting", holder="run 20260101-000000-other"))
    assert "waiting for run 20260101-000000-other" in text


def test_a_stream_that_breaks_off_means_killed() -> None:
    follower, _ = shown({"event": "run", "state": "started"}, step("convert", "begun"))
    assert follower.state == "started"


def test_a_failure_keeps_its_reason() -> None:
    follower, _ = shown(
        step("train", "begun"),
        step("train", "failed", reason="exit status 1: loss is nan"),
        {"event": "run", "state": "failed", "status": 1},
    )
    assert (follower.failed_stage, follower.reason, follower.state) == ("train", "exit status 1: loss is nan", "failed")


def test_the_last_stage_tells_its_step_its_loss_and_the_time_left() -> None:
    def progress(time: float, done: int, stage: str = "train") -> dict:
        return {"event": "progress", "stage": stage, "time": time, "done": done, "total": 80, "unit": "step"}

    events = [step("convert", "begun"), progress(0.0, 1, "convert"), progress(5.0, 80, "convert")]
    events += [step("convert", "finished"), step("train", "begun")]
    assert last_progress(events) == StageProgress("train")
    events += [progress(10.0, 10), {"event": "metric", "stage": "train", "at": 10, "values": {"loss": 2.5}}]
    assert last_progress(events) == StageProgress("train", 10, 80, "step", 2.5, None)
    events += [progress(20.0, 30), {"event": "metric", "stage": "train", "at": 30, "values": {"eval_loss": 9.0}}]
    assert last_progress(events) == StageProgress("train", 30, 80, "step", 2.5, 25.0)


def test_a_stage_that_begins_again_is_timed_anew() -> None:
    again = {"event": "progress", "stage": "train", "time": 99.0, "done": 40, "total": 80, "unit": "step"}
    events = [step("train", "begun"), {**again, "time": 1.0, "done": 1}, step("train", "begun"), again]
    assert last_progress(events) == StageProgress("train", 40, 80, "step", None, None)
