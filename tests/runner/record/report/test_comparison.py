"""The report of several runs ranks them and shows what made the difference."""

from __future__ import annotations

import shutil
from pathlib import Path

from records import a_sweep

from tests.runner.record.report_page import page_of
from tests.runner.trained_run import trained_run


def test_several_runs_are_ranked_by_what_they_differ_in(tmp_path: Path) -> None:
    trials = [
        trained_run(tmp_path, f"train.lora.rank={rank}", f"train.lora.alpha={2 * rank}", f"train.learning_rate={rate}",
                    key=f"{rank}-{rate}", accuracy=accuracy)
        for rank, rate, accuracy in ((4, 1e-3, 0.25), (8, 1e-3, 0.5), (4, 2e-3, 0.875), (8, 2e-3, 0.375))
    ]  # fmt: skip
    page = page_of(tmp_path, *trials)
    assert "Best: execution accuracy 87.5%" in page.text
    assert "learning rate 0.002, rank 4, alpha 8; the others 50.0% to 25.0%" in page.text
    names = [text for text in page.texts if text in {trial.name for trial in trials}]
    assert names[:4] == [trials[n].name for n in (2, 1, 3, 0)]
    axes = next(svg["aria-label"] for svg in page.named("svg") if svg.get("class") == "parallel")
    assert axes == "execution accuracy and learning rate; rank, alpha of 4 runs as parallel axes"
    loss = next(svg for svg in page.named("svg") if str(svg["aria-label"]).startswith("Loss"))
    assert str(loss["data-points"]).count('"name"') == 4


def test_trials_are_ranked_by_the_objective_of_their_sweep(tmp_path: Path) -> None:
    a_sweep(tmp_path, "sql", "train.loss", "minimize")
    trials = [
        trained_run(tmp_path, key=f"{n}", accuracy=accuracy, steps=range(1, last), trial=f"sql/00{n}")
        for n, (accuracy, last) in enumerate([(0.875, 5), (0.5, 17), (0.25, 9)])
    ]
    page = page_of(tmp_path, *trials)
    assert "Best: training loss 0.0625" in page.text
    names = [text for text in page.texts if text in {trial.name for trial in trials}]
    assert names[:3] == ["sql/001", "sql/002", "sql/000"]


def test_trials_of_the_same_number_keep_their_figures(tmp_path: Path) -> None:
    for sweep in ("one", "two"):
        a_sweep(tmp_path, sweep, "adapter.execution_accuracy", "maximize")
    accuracies = {"one/000": 0.25, "two/000": 0.875}
    trials = [trained_run(tmp_path, key=name[:3], accuracy=value, trial=name) for name, value in accuracies.items()]
    assert "Best: execution accuracy 87.5%" in page_of(tmp_path, *trials).text


def test_the_best_of_few_examples_is_named_with_its_interval(tmp_path: Path) -> None:
    trials = [
        trained_run(tmp_path, f"train.lora.rank={rank}", "hardware.price_per_hour=36", key=str(rank), accuracy=accuracy)
        for rank, accuracy in ((4, 0.75), (8, 0.5), (16, 0.625), (2, 0.125))
    ]
    page = page_of(tmp_path, *trials)
    assert "95 % confidence interval of the best: 51 to 90%; 1 of the others is within it" in page.text
    assert len([line for line in page.named("line") if "interval" in str(line["class"])]) == 4
    assert "seconds cost" in page.text


def test_runs_that_are_alike_or_unmeasured_can_be_compared(tmp_path: Path) -> None:
    alike = [trained_run(tmp_path), trained_run(tmp_path)]
    assert "Differ in nothing" in page_of(tmp_path, *alike).text
    for run in alike:
        shutil.rmtree(run.folder / "results")
    assert "No run has been measured" in page_of(tmp_path, *alike).text
