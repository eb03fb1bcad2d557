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
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 30  # margins of a chart with axes
_MOST_POINTS = 400  # of one line; a screen shows no more


@dataclass(frozen=True)
class Line:
    """One line of a chart: points in order of x."""

    name: str
    points: Sequence[Point]
    colour: str


def lines(
    curves: Sequence[Line], title: str, *, width: int = 520, height: int = 210, zero: bool = False,
    marks: Sequence[Point] = (), kept: float | None = None, smooth: bool = False,
) -> Markup:  # fmt: skip
    """Lines over training steps. `marks` are points drawn over them, large at `kept`; `smooth` adds a running mean."""
    points = [point for line in curves for point in line.points] + list(marks)
    x = tight([at for at, _ in points], _LEFT, width - _RIGHT)
    y = linear([value for _, value in points], height - _BOTTOM, _TOP, zero=zero, count=4)
    drawn = [part for line in curves for part in _line(line, x, y, smooth)]
    dots = [
        element("circle", cx=x(at), cy=y(value), r=6.5 if at == kept else 4, class_=f"mark {curves[0].colour}")
        for at, value in marks
    ]
    cursor = element("line", class_="cursor", y1=_TOP, y2=height - _BOTTOM, x1=-9, x2=-9)
    data = json.dumps(_pointer_data([_thinned(line) for line in curves], x, y), separators=(",", ":"))
    return _svg(width, height, title, *_axes(x, y, width, height), *drawn, *dots, cursor, data_points=data, tabindex=0)


def _line(line: Line, x: Scale, y: Scale, smooth: bool) -> Iterable[Markup]:
    thin = _thinned(line)
    if len(thin.points) == 1:
        at, value = thin.points[0]
        return [element("circle", cx=x(at), cy=y(value), r=2.5, class_=f"dot {line.colour}")]
    window = smoothing(line)
    if not smooth or window < 2:
        return [_path(thin, x, y, "line")]
    mean = Line(line.name, running_mean(line.points, window), line.colour)
    return [_path(thin, x, y, "line faint"), _path(_thinned(mean), x, y, "line")]


def _path(line: Line, x: Scale, y: Scale, kind: str) -> Markup:
    places = " ".join(f"{x(at)},{y(value)}" for at, value in line.points)
    return element("polyline", points=places, class_=f"{kind} {line.colour}")


def smoothing(line: Line) -> int:
    """How many neighbours on either side the running mean of a line covers; below 2 there is no mean."""
    return len(line.points) // 20


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Each y replaced by the mean of itself and up to `window` neighbours on either side."""
    values = [value for _, value in points]
    around = (values[max(0, n - window) : n + window + 1] for n in range(len(values)))
    return [(at, sum(near) / len(near)) for (at, _), near in zip(points, around, strict=True)]


def _thinned(line: Line) -> Line:
    """Only the smallest and the largest point of every bucket, so that no spike is lost."""
    points, size = line.points, -(-len(line.points) * 2 // _MOST_POINTS)
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


def dumbbell(before: float, after: float, title: str) -> Markup:
    """Two shares of 1 on one line from 0 to 1."""
    place = linear([0, 1], 6, 194)
    return _svg(
        200, 18, title,
        element("line", class_="grid", x1=6, x2=194, y1=9, y2=9),
        element("line", class_="line adapter", x1=place(before), x2=place(after), y1=9, y2=9),
        element("circle", class_="dot base", cx=place(before), cy=9, r=4.5),
        element("circle", class_="dot adapter", cx=place(after), cy=9, r=4.5),
        class_="dumbbell",
    )  # fmt: skip


def bar(share: float, title: str) -> Markup:
    """A horizontal bar, `share` of its full width."""
    filled = element("rect", class_="bar", x=0, y=0, width=max(round(200 * share, 1), 0.5), height=12, rx=1.5)
    return _svg(200, 12, title, filled, class_="bars", preserveAspectRatio="none")


@dataclass(frozen=True)
class Trial:
    """A run in a comparison plot: its values by axis, and whether it is the best."""

    name: str
    colour: str
    values: dict[str, Any]
    best: bool = False


def against(trials: Sequence[Trial], key: str, metric: str, title: str, write: Callable[[float], str]) -> Markup:
    """A metric against one key. A line joins trials that are equal in all other keys."""
    width, height = 340, 220
    x = _axis([trial.values[key] for trial in trials], _LEFT + 14, width - _RIGHT - 14)
    y = linear([trial.values[metric] for trial in trials], height - _BOTTOM, _TOP, count=4)
    alike: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: x(trial.values[key])):
        others = {name: value for name, value in trial.values.items() if name not in (key, metric)}
        alike.setdefault(repr(others), []).append(trial)
    joins = [_join([(x(t.values[key]), y(t.values[metric])) for t in group]) for group in alike.values()]
    dots = [_trial_dot(trial, x(trial.values[key]), y(trial.values[metric])) for trial in trials]
    return _svg(width, height, title, *_against_axes(x, y, write), *joins, *dots)


def _against_axes(x: Axis, y: Scale, write: Callable[[float], str]) -> Iterable[Markup]:
    for value in y.ticks:
        yield element("line", class_="grid", x1=_LEFT, x2=340 - _RIGHT, y1=y(value), y2=y(value))
        yield element("text", write(value), class_="tick end", x=_LEFT - 8, y=y(value) + 4)
    for label, place in x.ticks():
        yield element("text", label, class_="tick middle", x=place, y=208)


def _join(places: Sequence[Point]) -> Markup:
    return element("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_="line join")


def _trial_dot(trial: Trial, x: float, y: float) -> Markup:
    return element(
        "circle", element("title", trial.name), class_=f"dot {trial.colour}", cx=x, cy=y, r=6.5 if trial.best else 4.5
    )


def parallel(
    trials: Sequence[Trial], axes: Sequence[tuple[str, str]], title: str, write: Callable[[float], str]
) -> Markup:
    """Parallel coordinates: a vertical axis for each key, the last one for the metric. `axes` are (name, heading)."""
    width, top, bottom = 1080, 40, 276
    gap = (width - 200) / (len(axes) - 1)
    scales = {name: _axis([trial.values[name] for trial in trials], bottom, top) for name, _ in axes[:-1]}
    metric = axes[-1][0]
    scales[metric] = _Measured(linear([trial.values[metric] for trial in trials], bottom, top), write)
    places = {name: round(100 + gap * number, 1) for number, (name, _) in enumerate(axes)}
    paths = [_across(trial, scales, places) for trial in sorted(trials, key=lambda trial: trial.best)]
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
    for label, y in scale.ticks():
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
