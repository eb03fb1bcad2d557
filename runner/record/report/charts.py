"""Charts as inline SVG. Colours are classes (`base`, `adapter`, `run0`...) that the style sheet sets for each theme."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from runner.record.report.scale import Scale, exact, linear, text, tight
from runner.record.report.svg import element

Point = tuple[float, float]
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 22, 26, 44  # margins of a chart with axes
_MOST_POINTS = 400  # of one line; a screen shows no more
_ROUGH_POINTS = 60  # of each line where there are many
_MARKED = 40  # points that are drawn as such; more of them are a band
_READ = 8  # lines whose values the pointer reads; more lines are drawn roughly


@dataclass(frozen=True)
class Line:
    """One line of a chart: points in order of x."""

    name: str
    points: Sequence[Point]
    colour: str


def lines(
    curves: Sequence[Line], title: str, *, unit: str = "", width: int = 520, height: int = 238, zero: bool = False,
    marks: Sequence[Point] = (), kept: float | None = None, smooth: bool = False,
) -> Markup:  # fmt: skip
    """Lines over training steps, in a `unit`.

    `marks` are points drawn over them, large at `kept`; `smooth` adds a running mean.
    """
    points = [point for line in curves for point in line.points] + list(marks)
    x = tight([at for at, _ in points], _LEFT, width - _RIGHT)
    y = linear([value for _, value in points], height - _BOTTOM, _TOP, zero=zero, count=4)
    draw = _line if len(curves) <= _READ else _rough_line
    drawn = [part for line in reversed(curves) for part in draw(line, x, y, smooth)]
    dots = [
        element("circle", cx=x(at), cy=y(value), r=6.5 if at == kept else 4, class_=f"mark {curves[0].colour}")
        for at, value in marks
    ]
    cursor = element("line", class_="cursor", y1=_TOP, y2=height - _BOTTOM, x1=-9, x2=-9)
    data = json.dumps(_pointer_data([_thinned(line) for line in curves[:_READ]], x, y), separators=(",", ":"))
    axes = [*_axes(x, y, width, height), *_axis_titles("step", unit, width, height)]
    return _svg(width, height, title, *axes, *drawn, *dots, cursor, data_points=data, tabindex=0)


def _line(line: Line, x: Scale, y: Scale, smooth: bool) -> Iterable[Markup]:
    thin = _thinned(line)
    window = smoothing(line)
    if not smooth or window < 2:
        return [_path(thin, x, y, "line"), *_points(line, x, y)]
    mean = Line(line.name, running_mean(line.points, window), line.colour)
    return [_path(thin, x, y, "line faint"), _path(_thinned(mean), x, y, "line")]


def _rough_line(line: Line, x: Scale, y: Scale, smooth: bool) -> Iterable[Markup]:
    mean = running_mean(line.points, smoothing(line)) if smooth else line.points
    return [_path(_thinned(Line(line.name, mean, line.colour), _ROUGH_POINTS), x, y, "line")]


def _path(line: Line, x: Scale, y: Scale, kind: str) -> Markup:
    places = " ".join(f"{x(at)},{y(value)}" for at, value in line.points)
    return element("polyline", points=places, class_=f"{kind} {line.colour}")


def _points(line: Line, x: Scale, y: Scale) -> Iterable[Markup]:
    """The points that were measured: a line between them is not."""
    for at, value in line.points if len(line.points) <= _MARKED else ():
        yield element("circle", cx=x(at), cy=y(value), r=2.5, class_=f"dot {line.colour}")


def smoothing(line: Line) -> int:
    """How many neighbours on either side the running mean of a line covers; below 2 there is no mean."""
    return len(line.points) // 20


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Each y replaced by the mean of itself and up to `window` neighbours on either side."""
    values = [value for _, value in points]
    around = (values[max(0, n - window) : n + window + 1] for n in range(len(values)))
    return [(at, sum(near) / len(near)) for (at, _), near in zip(points, around, strict=True)]


def _thinned(line: Line, most: int = _MOST_POINTS) -> Line:
    """Only the smallest and the largest point of every bucket, so that no spike is lost."""
    points, size = line.points, -(-len(line.points) * 2 // most)
    if size <= 2:
        return line
    buckets = (points[start : start + size] for start in range(0, len(points), size))
    ends = ({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])} for bucket in buckets)
    return Line(line.name, [point for pair in ends for point in sorted(pair)], line.colour)


def _pointer_data(curves: Sequence[Line], x: Scale, y: Scale) -> dict[str, Any]:
    """For the pointer: the places on the x axis, and for every line its place and value at each."""
    steps = sorted({at for line in curves for at, _ in line.points})
    series = []
    for line in curves:
        values = dict(line.points)
        series.append({
            "name": line.name, "colour": line.colour,
            "y": [y(values[at]) if at in values else None for at in steps],
            "text": [f"{values[at]:#.4g}".rstrip(".") if at in values else None for at in steps],
        })  # fmt: skip
    return {"x": [x(at) for at in steps], "at": [text(at) for at in steps], "series": series}


def _axes(x: Scale, y: Scale, width: int, height: int) -> Iterable[Markup]:
    bottom = height - _BOTTOM
    for value in y.ticks:
        yield element("line", class_="grid", x1=_LEFT, x2=width - _RIGHT, y1=y(value), y2=y(value))
        yield element("text", text(value), class_="tick end", x=_LEFT - 8, y=y(value) + 4)
    for value in x.ticks:
        yield element("text", text(value), class_="tick middle", x=x(value), y=bottom + 18)


def _axis_titles(across: str, upwards: str, width: int, height: int) -> Iterable[Markup]:
    yield element("text", across, class_="tick middle", x=(_LEFT + width - _RIGHT) / 2, y=height - 8)
    yield element("text", upwards, class_="tick", x=0, y=11)


@dataclass(frozen=True)
class Share:
    """A share of 1, its confidence interval if it has one, and its colour."""

    value: float
    interval: Point | None
    colour: str


def shares(values: Sequence[Share], title: str) -> Markup:
    """Shares below one another on lines from 0 to 1, each with its confidence interval."""
    place = linear([0, 1], 6, 194)
    drawn = [part for row, share in enumerate(values) for part in _share(share, place, 7 + 13 * row)]
    return _svg(200, 13 * len(values) + 1, title, *drawn, class_="shares")


def _share(share: Share, place: Scale, y: int) -> Iterable[Markup]:
    yield element("line", class_="grid", x1=6, x2=194, y1=y, y2=y)
    if share.interval:
        low, high = share.interval
        yield element("line", class_=f"interval {share.colour}", x1=place(low), x2=place(high), y1=y, y2=y)
    yield element("circle", class_=f"dot {share.colour}", cx=place(share.value), cy=y, r=4.5)


def timeline(spans: Sequence[tuple[float, float]], total: float, title: str) -> Markup:
    """Bars from the beginning to the end of each span, on a line of `total` seconds."""
    scale = 200 / total if total > 0 else 0.0
    bars = [
        element("rect", class_="bar", x=round(start * scale, 2), y=0, height=12,
                width=max(round((end - start) * scale, 2), 0.75))
        for start, end in spans
    ]  # fmt: skip
    return _svg(200, 12, title, *bars, class_="bars", preserveAspectRatio="none")


@dataclass(frozen=True)
class Trial:
    """A run in a comparison plot: its values by axis, the confidence interval of its metric, whether it is best."""

    name: str
    colour: str
    values: dict[str, Any]
    best: bool = False
    interval: Point | None = None


def against(
    trials: Sequence[Trial], key: str, metric: str, titles: tuple[str, str], write: Callable[[float], str]
) -> Markup:
    """A metric against one key, with the `titles` of both. A line joins trials that are equal in all other keys."""
    width, height = 340, 240
    x = _axis([trial.values[key] for trial in trials], _LEFT + 14, width - _RIGHT - 14)
    reached = [end for trial in trials for end in (trial.values[metric], *(trial.interval or ()))]
    y = linear(reached, height - _BOTTOM, _TOP, count=4)
    alike: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: x(trial.values[key])):
        others = {name: value for name, value in trial.values.items() if name not in (key, metric)}
        alike.setdefault(repr(others), []).append(trial)
    joins = [_join([(x(t.values[key]), y(t.values[metric])) for t in group]) for group in alike.values()]
    dots = [part for trial in reversed(trials) for part in _trial(trial, x(trial.values[key]), y, metric)]
    axes = [*_against_axes(x, y, write, height), *_axis_titles(*titles, width, height)]
    return _svg(width, height, f"{titles[1]} against {titles[0]}", *axes, *joins, *dots)


def _against_axes(x: Axis, y: Scale, write: Callable[[float], str], height: int) -> Iterable[Markup]:
    for value in y.ticks:
        yield element("line", class_="grid", x1=_LEFT, x2=340 - _RIGHT, y1=y(value), y2=y(value))
        yield element("text", write(value), class_="tick end", x=_LEFT - 8, y=y(value) + 4)
    for label, place in apart(x.ticks(), _width):
        yield element("text", label, class_="tick middle", x=place, y=height - _BOTTOM + 18)


def apart(labels: Sequence[tuple[str, float]], size: Callable[[str], float]) -> list[tuple[str, float]]:
    """The labels in order of place, without those that would lie over the one before them."""
    kept: list[tuple[str, float]] = []
    for label, place in sorted(labels, key=lambda one: one[1]):
        if not kept or place - kept[-1][1] >= (size(label) + size(kept[-1][0])) / 2:
            kept.append((label, place))
    return kept


def _width(label: str) -> float:
    return 7.0 * len(label) + 8


def _join(places: Sequence[Point]) -> Markup:
    return element("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_="line join")


def _trial(trial: Trial, x: float, y: Scale, metric: str) -> Iterable[Markup]:
    if trial.interval:
        low, high = map(y, trial.interval)
        yield element("line", class_=f"interval {trial.colour}", x1=x, x2=x, y1=low, y2=high)
    title, radius = element("title", trial.name), 6.5 if trial.best else 4.5
    yield element("circle", title, class_=f"dot {trial.colour}", cx=x, cy=y(trial.values[metric]), r=radius)


def parallel(
    trials: Sequence[Trial], axes: Sequence[tuple[str, str]], title: str, write: Callable[[float], str]
) -> Markup:
    """Parallel coordinates: a vertical axis for each key, the last one for the metric. `axes` are (name, heading).

    The first trials are drawn over the others.
    """
    width, top, bottom = 1080, 40, 276
    gap = (width - 200) / (len(axes) - 1)
    scales = {name: _axis([trial.values[name] for trial in trials], bottom, top) for name, _ in axes[:-1]}
    metric = axes[-1][0]
    scales[metric] = _Measured(linear([trial.values[metric] for trial in trials], bottom, top), write)
    places = {name: round(100 + gap * number, 1) for number, (name, _) in enumerate(axes)}
    paths = [_across(trial, scales, places) for trial in reversed(trials)]
    uprights = [
        part
        for name, heading in axes
        for part in _upright(scales[name], places[name], heading, (top, bottom), last=name == metric)
    ]
    return _svg(width, bottom + 14, title, *paths, *uprights, class_="parallel")


def _across(trial: Trial, scales: Mapping[str, Axis], places: Mapping[str, float]) -> Markup:
    points = " ".join(f"{place},{scales[name](trial.values[name])}" for name, place in places.items())
    kind = "line best" if trial.best else "line"
    return element("polyline", element("title", trial.name), points=points, class_=f"{kind} {trial.colour}")


def _upright(scale: Axis, place: float, heading: str, ends: tuple[int, int], last: bool) -> Iterable[Markup]:
    yield element("line", class_="axis", x1=place, x2=place, y1=ends[0], y2=ends[1])
    yield element("text", heading, class_="heading middle", x=place, y=ends[0] - 18)
    for label, y in apart(scale.ticks(), lambda _: 14):
        yield element("text", label, class_="tick" if last else "tick end halo", x=place + (9 if last else -9), y=y + 4)


class Axis(ABC):
    """Maps the values of a key, numbers or texts, to places."""

    @abstractmethod
    def __call__(self, value: Any) -> float:
        """The place of a value."""

    @abstractmethod
    def ticks(self) -> list[tuple[str, float]]:
        """The labels of the axis with their places."""


class _Measured(Axis):
    def __init__(self, scale: Scale, write: Callable[[float], str] = text):
        self._scale, self._write = scale, write

    def __call__(self, value: Any) -> float:
        return self._scale(value)

    def ticks(self) -> list[tuple[str, float]]:
        return [(self._write(value), self._scale(value)) for value in self._scale.ticks]


class _Named(Axis):
    """Texts get places at equal distances."""

    def __init__(self, values: Sequence[str], start: float, end: float):
        names = sorted(set(values))
        gap = (end - start) / max(len(names) - 1, 1)
        self._places = {name: round(start + gap * number, 2) for number, name in enumerate(names)}

    def __call__(self, value: Any) -> float:
        return self._places[str(value)]

    def ticks(self) -> list[tuple[str, float]]:
        return [(name if len(name) <= 22 else f"{name[:20]}…", place) for name, place in self._places.items()]


def _axis(values: Sequence[Any], start: float, end: float) -> Axis:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return _Measured(exact(values, start, end))
    return _Named([str(value) for value in values], start, end)


def _svg(width: int, height: int, title: str, *parts: Markup, **attributes: Any) -> Markup:
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=title, **attributes)
