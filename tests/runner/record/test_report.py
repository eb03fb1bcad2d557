"""A report is one file, tells what the record holds, and shows text as text."""

from __future__ import annotations

import html.parser
import shutil
from pathlib import Path

import pytest
from records import a_sweep

from runner.record import report
from runner.record.report import charts, scale
from runner.record.report.charts import Line
from runner.record.report.markup import Html, tag
from runner.record.runs import Run
from tests.runner.trained_run import sample, trained_run

HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"&<!--"


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its elements with attributes, and the text in each."""

    VOID = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for element, attributes in self.elements if element == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(folder: Path, *runs: Run) -> Page:
    page = Page(report.write(list(runs), folder / "out" / "report.html"))
    assert page.open == []
    return page


def test_a_run_is_told_from_verdict_to_provenance(tmp_path: Path) -> None:
    run = trained_run(tmp_path, "train.lora.rank=8")
    page = page_of(tmp_path, run)
    for words in (
        "Execution accuracy 12.5% → 75.0%",
        "On 16 held-out examples; exact match 0.0% → 50.0%, held-out loss 1.5 → 0.4",
        "12 steps over 6,144 tokens, 2,000 of them learnt, in 1:01", "+62.5 points", "do evaluate", "3 rows are <long>",
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


def test_text_of_a_run_is_shown_and_never_becomes_markup(tmp_path: Path) -> None:
    run = trained_run(tmp_path, samples=[sample(HOSTILE)])
    page = page_of(tmp_path, run)
    assert page.texts.count(HOSTILE) == 4  # prompt, reference, base, adapter
    assert len(page.named("script")) == 1
    assert not page.named("img")


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


def test_runs_that_are_alike_or_unmeasured_can_be_compared(tmp_path: Path) -> None:
    alike = [trained_run(tmp_path), trained_run(tmp_path)]
    assert "Differ in nothing" in page_of(tmp_path, *alike).text
    for run in alike:
        shutil.rmtree(run.folder / "results")
    assert "No run has been measured" in page_of(tmp_path, *alike).text


def test_markup_escapes_all_but_markup() -> None:
    assert tag("p", "<b>", tag("b", "&"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<b>&amp;</b></p>'
    assert tag("p", None, Html("<i>")) == "<p><i></p>"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.13, 0.87], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([2.0, 2.0], (1.8, 1.9, 2.0, 2.1, 2.2)),
        ([-3e-5, 5e-5], (-4e-5, -2e-5, 0.0, 2e-5, 4e-5, 6e-5)),
    ],
)
def test_axes_have_round_numbers(values: list[float], ticks: tuple[float, ...]) -> None:
    assert scale.linear(values, 0, 100, count=4).ticks == pytest.approx(ticks)


def test_a_long_curve_is_thinned_but_keeps_its_spike() -> None:
    points = [(step, 100.0 if step == 4321 else 1.0) for step in range(1, 10_001)]
    drawn = charts.lines([Line("run", points, "run0")], "loss")
    assert "100" in drawn
    assert len(drawn) < 60_000
