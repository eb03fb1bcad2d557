"""The report of one run shows what its record holds, and nothing that is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.runner.record.report_page import page_of
from tests.runner.trained_run import sample, trained_run


def test_a_run_is_told_from_verdict_to_provenance(tmp_path: Path) -> None:
    run = trained_run(tmp_path, "train.lora.rank=8")
    page = page_of(tmp_path, run)
    for words in (
        "Execution accuracy 12.5% → 75.0%",
        "On 16 held-out examples; exact match 0.0% → 50.0%, held-out loss 1.5 → 0.4",
        "12 steps over 6,144 tokens, 2,000 of them learnt, in 1:01", "+62.5 points", "do evaluate", "3 rows are <long>",
        "75.0% 51 to 90%",
    ):  # fmt: skip
        assert words in page.text
    assert [section["id"] for section in page.named("section")] == [
        "training", "evaluation", "samples", "stages", "data", "messages", "configuration", "commands", "provenance",
    ]  # fmt: skip
    assert run.manifest["machine"]["system"] in page.text
    assert "train.lora.rank 8 override 16" in page.text


def test_curves_hold_every_step(tmp_path: Path) -> None:
    page = page_of(tmp_path, trained_run(tmp_path))
    titles = [svg["aria-label"] for svg in page.named("svg")]
    assert "Loss by training step: quickstart from 1 at step 1 to 0.08333 at step 12" in titles
    lines = [line for line in page.named("polyline") if "adapter" in str(line["class"])]
    assert [len(str(line["points"]).split()) for line in lines] == [12, 12, 12, 12]


def test_evaluations_are_marked_on_the_loss_and_the_kept_one_is_large(tmp_path: Path) -> None:
    page = page_of(tmp_path, trained_run(tmp_path, evaluations=((4, 0.6), (8, 0.35), (12, 0.4))))
    assert [mark["r"] for mark in page.named("circle") if "mark" in str(mark["class"])] == ["4", "4", "6.5", "4"]
    assert "The adapter is that of step 8, which had the lowest held-out loss." in page.text
    assert not any("eval_loss" in str(svg["aria-label"]) for svg in page.named("svg"))


def test_words_that_differ_from_the_reference_are_marked(tmp_path: Path) -> None:
    answer = {**sample("SELECT 1"), "adapter": {"text": "SELECT 2", "correct": False}}
    page = page_of(tmp_path, trained_run(tmp_path, samples=[answer]))
    assert "Adapter ✗ wrong SELECT 2" in page.text
    assert len([mark for mark in page.named("mark") if mark.get("class") == "differs"]) == 2  # and the legend


def test_stages_follow_one_another_on_one_clock(tmp_path: Path) -> None:
    page = page_of(tmp_path, trained_run(tmp_path))
    starts = [float(str(bar["x"])) for bar in page.named("rect")]
    assert starts[0] == 0.0 and starts == sorted(starts) and len(set(starts)) == 3


def test_samples_are_marked_for_the_filters(tmp_path: Path) -> None:
    samples = [sample(base=False, adapter=True), sample(base=True, adapter=True), sample(base=True, adapter=False)]
    page = page_of(tmp_path, trained_run(tmp_path, samples=samples))
    marks = [str(article["class"]).split()[1:] for article in page.named("article")]
    assert marks == [["all", "right", "changed"], ["all", "right"], ["all", "wrong", "changed"]]
    assert "All 3 Right 2 Wrong 1 Changed 2" in page.text


def test_a_failed_run_says_where_and_why(tmp_path: Path) -> None:
    page = page_of(tmp_path, trained_run(tmp_path, fails=True))
    assert "Failed in export no & good (exit status 1" in page.text
    assert "Base against adapter" not in page.text


def test_what_is_gone_is_left_out(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    shutil.rmtree(tmp_path / "store")
    page = page_of(tmp_path, run)
    assert "Execution accuracy" in page.text
    assert "samples" not in [section["id"] for section in page.named("section")]


def test_a_run_killed_at_its_start_has_a_report(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    shutil.rmtree(run.folder / "results")
    (run.folder / "events.jsonl").write_text('{"time": 1.0, "event": "run", "state": "started"}\n{"time"')
    assert "Ended before it was done" in page_of(tmp_path, run).text
