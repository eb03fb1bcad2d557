"""Sections that are the same for one run and for several: curves, configuration, commands, provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from runner.compose.schema import Recipe
from runner.plan import text as plan_text
from runner.plan.model import Step
from runner.record import training_curve as history
from runner.record.differences import flat
from runner.record.report import charts, markup
from runner.record.report.charts import Line, Point
from runner.record.report.markup import Html, joined, tag
from runner.record.runs import Run

_CURVES = {
    "loss": ("Loss", "nats a token"),
    "learning_rate": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", "before clipping"),
    "tokens_per_second": ("Tokens a second", "all ranks together"),
}
_ELSEWHERE = ("overrides", "choices", "command")  # of the manifest; shown by the configuration


def training(run: Run) -> dict[str, list[Point]]:
    """Every metric of the training as points (step, value)."""
    steps = history.steps(run)
    names = dict.fromkeys(name for values in steps.values() for name in values)
    return {name: [(at, values[name]) for at, values in steps.items() if name in values] for name in names}


def curves(several: Sequence[tuple[str, str, Mapping[str, Sequence[Point]]]], held_out: Sequence[Point] = ()) -> Html:
    """A chart for each metric of (name, colour, training history) tuples; `held_out` are losses to mark."""
    names = dict.fromkeys(name for _, _, history in several for name in history)
    return tag("div", *(_curve(name, several, held_out) for name in names), class_="charts")


def _curve(metric: str, several: Sequence[tuple[str, str, Mapping]], held_out: Sequence[Point]) -> Html:
    heading, note = _CURVES.get(metric, (metric, ""))
    drawn = [Line(name, history[metric], colour) for name, colour, history in several if history.get(metric)]
    is_loss = metric == "loss"
    title = f"{heading} by training step: {'; '.join(_course(line) for line in drawn)}"
    marks, noisy = held_out if is_loss else (), metric != "learning_rate"
    chart = charts.lines(drawn, title, zero=not is_loss, marks=marks, smooth=noisy)
    smoothed = noisy and any(charts.smoothing(line) > 1 for line in drawn)
    notes = [note, "bold: running mean" if smoothed else "", "circles: held-out" if marks else ""]
    caption = tag("figcaption", tag("b", heading), tag("span", ", ".join(filter(None, notes)), class_="note"))
    return tag("figure", caption, tag("div", chart, class_="chart"))


def _course(line: Line) -> str:
    (first, start), (last, end) = line.points[0], line.points[-1]
    return f"{line.name} from {start:.4g} at step {first} to {end:.4g} at step {last}"


def configuration(run: Run) -> Html:
    """Every key of the composed recipe; those that differ from the schema's defaults are marked."""
    defaults, given = flat(dataclasses.asdict(Recipe())), run.manifest["overrides"]
    rows = [_key(name, value, defaults.get(name), given) for name, value in flat(run.recipe).items()]
    switch = tag("input", type="checkbox", id="every-key", class_="switch")
    label = tag("label", f"show all {len(rows)} keys, not only those that differ from the defaults", for_="every-key")
    chosen = ((group, option) for group, option in run.manifest["choices"].items() if _is_choice(group, option))
    said = [
        tag("p", "Overrides: ", *_codes(given or ["none"])),
        tag("p", "Choices: ", *_codes([f"{group}={option}" for group, option in chosen])),
    ]
    return joined([*said, switch, label, markup.table(("key", "value", "default"), rows, class_="keys")])


def _is_choice(group: str, option: str) -> bool:
    return not group.startswith("hydra/") and "@" not in group and option != "None"


def _codes(words: Sequence[str]) -> list[Html]:
    return [joined([tag("code", word), " "]) for word in words]


def _key(name: str, value: Any, default: Any, given: Sequence[str]) -> Html:
    if value == default:
        return markup.row(tag("code", name), _value(value), "", class_="default")
    by_hand = any(text.lstrip("+").partition("=")[0] in (name, name.rpartition(".")[2]) for text in given)
    mark = tag("span", "override", class_="mark") if by_hand else None
    return markup.row(tag("code", name), tag("td", _value(value), mark), tag("td", _value(default), class_="note"))


def _value(value: Any) -> Html:
    return tag("code", written(value).replace("\n", "\\n"))


def written(value: Any) -> str:
    """A recipe's value as a person writes it.

    >>> [written(value) for value in (None, True, 2e-4, ["a", "b"])]
    ['-', 'true', '0.0002', 'a, b']
    """
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value in (None, "") else str(value)


def commands(run: Run) -> Html:
    """The command line of every step, folded."""
    steps = [Step(**step) for step in run.plan["steps"]]
    return joined(tag("details", _summary(step), tag("pre", plan_text.command_line(step))) for step in steps)


def _summary(step: Step) -> Html:
    return tag("summary", tag("b", step.stage), f" {step.title} ", tag("span", step.key, class_="note"))


def provenance(run: Run) -> Html:
    """The manifest: code, versions, machine."""
    facts = {name: value for name, value in run.manifest.items() if name not in _ELSEWHERE}
    rows = [markup.row(name, _fact(value)) for name, value in flat(facts).items()]
    command = tag("p", "Command: ", tag("code", " ".join(run.manifest["command"])))
    return joined([command, markup.table((), rows, class_="manifest")])


def _fact(value: Any) -> Html:
    words = written(value)
    if "\n" in words:
        return tag("details", tag("summary", f"{words.count(chr(10))} lines"), tag("pre", words))
    return tag("code", words)
