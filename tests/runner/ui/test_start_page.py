"""Runs that are started and cancelled from the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.cli import main
from runner.execute import agent
from runner.record.runs import Run
from tests.runner.records import waiting
from tests.runner.ui.served import Browser

START = {"recipe": "quickstart", "overrides": ""}


@pytest.mark.parametrize(
    "overrides",
    ["tp_sise=2", "train.epochs=0", "train.lora.rank=a", "dataset.path=nowhere.jsonl", "train.lora.rank=1,2"],
)
def test_a_mistake_is_told_in_the_words_of_the_command(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: str
) -> None:
    assert main(["plan", "quickstart", *overrides.splitlines()]) == 2
    said = capsys.readouterr().err.removeprefix("runner: ").rstrip("\n")
    for path in ("/api/plan", "/api/start"):
        answer = browser.post(path, {**START, "overrides": overrides})
        assert (answer.status, answer.json()) == (400, {"error": said})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flag", ["--multirun", "-m", "--cfg=job", "--detach"])
def test_a_flag_is_no_override(browser: Browser, flag: str) -> None:
    assert browser.post("/api/plan", {**START, "overrides": flag}).status == 400


@pytest.mark.parametrize("asked", [{}, {"recipe": 1, "overrides": ""}, {"recipe": "quickstart", "overrides": ["a=1"]}])
def test_what_is_no_form_is_refused(browser: Browser, asked: dict) -> None:
    assert browser.post("/api/start", asked).json() == {"error": "recipe and overrides: texts are needed"}


def test_a_plan_is_shown_before_it_is_started(browser: Browser) -> None:
    plan = browser.post("/api/plan", {**START, "overrides": "\n  train.lora.rank=4\n\nname=a b\n"}).json()
    assert plan["command"] == "runner run quickstart train.lora.rank=4 'name=a b' --detach"
    assert plan["picture"].count("will run") >= 5
    assert "training steps" in dict(plan["facts"])


def test_a_started_run_is_detached_and_where_the_page_shows_it(browser: Browser, tmp_path: Path) -> None:
    store = f"paths.store={tmp_path}/store"
    broken = f"{store}\nsdk.train_python={tmp_path}/no-python"  # ends at once: what is tested is how it starts
    name = browser.post("/api/start", {**START, "overrides": broken}).json()["run"]
    run = Run(tmp_path / "runs" / name)
    assert run.manifest["overrides"] == [*broken.splitlines(), f"paths.runs={tmp_path}/runs"]
    assert list(agent.follow(run.folder))
    assert run.state == "failed"


def test_the_form_is_filled_in_for_the_next_run(browser: Browser) -> None:
    page = browser.get("/start?recipe=quickstart&override=a%3D%3Cb%3E&override=c%3D1").text
    assert re.search(r"<textarea[^>]*>a=&lt;b&gt;\nc=1</textarea>", page)


def test_a_run_is_cancelled(browser: Browser, tmp_path: Path) -> None:
    run = waiting(tmp_path)
    assert run.in_progress
    assert browser.post(f"/api/cancel/{run.name}").json() == {"state": "stopped"}
    assert not run.in_progress
    assert browser.post("/api/cancel/nothing").status == 404
    assert browser.get(f"/api/cancel/{run.name}").status == 404
