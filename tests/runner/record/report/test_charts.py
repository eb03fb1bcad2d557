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
    svg = charts.against(trials, "rank", "loss", ("rank", "loss"), str)
    assert (svg.count("<polyline"), svg.count("<circle")) == (2, 4)


def test_names_of_trials_are_escaped() -> None:
    trials = [Trial("<b>", "run0", {"data": name, "loss": 1.0}) for name in ("<i>", "other")]
    svg = charts.parallel(trials, [("data", "<u>"), ("loss", "loss")], "title", str)
    assert not any(markup in svg for markup in ("<b>", "<i>", "<u>"))
    assert svg.count("&lt;b&gt;") == 2


def test_axes_have_titles_and_few_points_are_marked() -> None:
    few = charts.lines([Line("run", [(1, 2.0), (5, 1.0), (9, 0.5)], "run0")], "loss", unit="nats a token")
    assert few.count('class="dot run0"') == 3
    assert ">step</text>" in few and ">nats a token</text>" in few
    many = charts.lines([Line("run", [(step, 1.0) for step in range(100)], "run0")], "loss")
    assert "dot" not in many


def test_of_many_lines_the_first_lie_on_top_and_are_read() -> None:
    curves = [Line(f"run {n}", [(step, float(n)) for step in range(1, 2001)], f"run{n}") for n in range(200)]
    drawn = charts.lines(curves, "loss", smooth=True)
    assert drawn.index('class="line run199"') < drawn.index('class="line run0"')
    assert drawn.count("&#34;name&#34;") == 8
    assert len(drawn) < 400_000


def test_labels_do_not_lie_over_one_another() -> None:
    kept = charts.apart([("0.1", 100.0), ("0.01", 20.0), ("0", 15.0), ("1", 130.0)], lambda label: 10.0)
    assert kept == [("0", 15.0), ("0.1", 100.0), ("1", 130.0)]


def test_a_share_of_few_examples_shows_its_interval() -> None:
    svg = charts.shares([charts.Share(0.25, (0.1, 0.5), "base"), charts.Share(0.5, None, "adapter")], "accuracy")
    assert svg.count('class="interval base"') == 1 and "interval adapter" not in svg
