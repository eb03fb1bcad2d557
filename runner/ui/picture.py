"""The plan of a run as a picture: a box for each step, an arrow where one reads what another made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from runner.metrics import duration
from runner.plan.model import Step
from runner.record.report.svg import element

_WIDTH, _HEIGHT = 128, 54  # of a box
_GAP, _ROW = 34, 72  # between two columns; from one row to the next


def draw(steps: Sequence[Step], events: Mapping[str, Mapping[str, Any]]) -> Markup:
    """The steps in the columns of their order; `events` has the last event of each stage that has begun."""
    needs = {step.key: [other.key for other in steps if other is not step and _reads(step, other)] for step in steps}
    places = _places(steps, needs)
    width = max((x for x, _ in places.values()), default=0) + _WIDTH + 2
    height = max((y for _, y in places.values()), default=0) + _HEIGHT + 2
    arrows = [_arrow(places[before], places[key]) for key, before_it in needs.items() for before in before_it]
    boxes = [part for step in steps for part in _box(step, places[step.key], events.get(step.stage, {}))]
    title = "; ".join(f"{step.stage}: {_state(events.get(step.stage, {}))}" for step in steps)
    return element(
        "svg", *arrows, *boxes, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
        aria_label=f"Plan: {title}", class_="plan",
    )  # fmt: skip


def _reads(step: Step, other: Step) -> bool:
    return any(other.key in argument for argument in step.argv)


def _places(steps: Sequence[Step], needs: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """The upper left corner of each box: right of all that it needs, below those in its column."""
    columns: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for step in steps:
        column = 1 + max((columns.get(key, -1) for key in needs[step.key]), default=-1)
        row = list(columns.values()).count(column)
        columns[step.key] = column
        places[step.key] = 1 + column * (_WIDTH + _GAP), 1 + row * _ROW
    return places


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> Markup:
    x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
    bend = _GAP / 2
    return element("path", d=f"M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}", class_="arrow")


def _box(step: Step, place: tuple[int, int], event: Mapping[str, Any]) -> Iterator[Markup]:
    x, y = place
    state = _state(event)
    seconds = f", {duration(event['seconds'])}" if state == "finished" else ""
    yield element(
        "rect", element("title", f"{step.title}: {state}{seconds}"), x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=5,
        class_=f"step {state.replace(' ', '-')}",
    )  # fmt: skip
    yield element("text", step.stage, x=x + 12, y=y + 22, class_="heading")
    yield element("text", f"{state}{seconds}", x=x + 12, y=y + 41, class_="tick")


def _state(event: Mapping[str, Any]) -> str:
    state = event.get("state", "not begun")
    return "running" if state == "begun" else state
