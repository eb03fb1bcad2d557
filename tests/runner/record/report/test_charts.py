"""Charts are SVG that keeps every spike."""

from __future__ import annotations

from runner.record.report import charts
from runner.record.report.charts import Line, Trial


def test_a_long_curve_is_thinned_but_keeps_its_spike() -> None:
    points = [(step, 100.0 if step == 4321 else 1.0) for step in range(1, 10_001)]
    drawn = charts.lines([Line("run", points, "run0")], "loss")
    assert "100" in drawn
    assert len(drawn) < 60_000


def test_a_running_mean_covers_the_neighbours_that_exist() -> None:
    points = [(1, 0.0), (2, 3.0), (3, 6.0), (4, 9.0)]
    assert charts.running_mean(points, 1) == [(1, 1.5), (2, 3.0), (3, 6.0), (4, 7.5)]


def test_a_line_joins_trials_that_differ_in_one_key_alone() -> None:
    trials = [
        Trial(f"{rank} {rate}", "run0", {"rank": rank, "rate": rate, "loss": rank * rate})
        for rank in (4, 8)
        for rate in (1, 2)
    ]
    svg = charts.against(trials, "rank", "loss", "loss against rank", str)
    assert (svg.count("<polyline"), svg.count("<circle")) == (2, 4)


def test_names_of_trials_are_escaped() -> None:
    trials = [Trial("<b>", "run0", {"data": name, "loss": 1.0}) for name in ("<i>", "other")]
    svg = charts.parallel(trials, [("data", "<u>"), ("loss", "loss")], "title", str)
    assert not any(markup in svg for markup in ("<b>", "<i>", "<u>"))
    assert svg.count("&lt;b&gt;") == 2
