"""The contents of sections that one run and several have in common: curves, configuration, commands, manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from runner.compose.schema import Recipe
from runner.plan import text as plan_text
from runner.record import training_curve
from runner.record.differences import flat
from runner.record.report import charts
from runner.record.report.charts import Line, Point
from runner.record.runs import Run

_CURVES = {  # heading, unit, note
    "loss": ("Loss", "nats a token", ""),
    "eval_loss": ("Held-out loss", "nats a token", ""),
    "learning_rate": ("Learning rate", "learning rate", ""),
    "grad_norm": ("Gradient norm", "L2 norm", "before clipping"),
    "tokens_per_second": ("Throughput", "tokens a second", "all ranks together"),
}
_CONFIGURATION = ("overrides", "choices", "command")  # of the manifest: shown elsewhere


@dataclasses.dataclass(frozen=True)
class History:
    """The training of one run: every metric as points (step, value)."""

    name: str
    colour: str
    metrics: Mapping[str, Sequence[Point]]


def capitalized(text: str) -> str:
    """With a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def history(run: Run, name: str, colour: str) -> History:
    """The training of a run, under a name and in a colour of the charts."""
    steps = training_curve.steps(run)
    names = dict.fromkeys(name for values in steps.values() for name in values)
    points = {name: [(at, values[name]) for at, values in steps.items() if name in values] for name in names}
    return History(name, colour, points)


def curves(
    histories: Sequence[History], held_out: Sequence[Point] = (), kept: float | None = None
) -> list[dict[str, Any]]:
    """A chart for each metric, over the training steps of all runs.

    `held_out` are losses to mark, larger at the step `kept`; without them, evaluations while training have a chart.
    """
    metrics = dict.fromkeys(
        metric for history in histories for metric, points in history.metrics.items()
        if metric != "eval_loss" or not held_out and len(points) > 1
    )  # fmt: skip
    return [_curve(metric, histories, held_out, kept) for metric in metrics]


def _curve(metric: str, histories: Sequence[History], held_out: Sequence[Point], kept: float | None) -> dict[str, Any]:
    heading, unit, note = _CURVES.get(metric, (metric, metric, ""))
    lines = [Line(run.name, run.metrics[metric], run.colour) for run in histories if run.metrics.get(metric)]
    is_loss, noisy = metric in ("loss", "eval_loss"), metric not in ("learning_rate", "eval_loss")
    marks = held_out if metric == "loss" else ()
    title = f"{heading} by training step: {'; '.join(map(_summary, lines))}"
    smoothed = noisy and any(charts.smoothing(line) > 1 for line in lines)
    notes = [note, "bold: running mean" if smoothed else "", "circles: held-out" if marks else ""]
    return {
        "heading": heading,
        "note": ", ".join(filter(None, notes)),
        "svg": charts.lines(lines, title, unit=unit, zero=not is_loss, marks=marks, kept=kept, smooth=noisy),
    }


def _summary(line: Line) -> str:
    (first, start), (last, end) = line.points[0], line.points[-1]
    return f"{line.name} from {start:.4g} at step {first} to {end:.4g} at step {last}"


def interval(ends: Point) -> str:
    """A confidence interval of a share, in percent.

    >>> interval((0.505, 0.898))
    '50 to 90%'
    """
    return f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f}%"


def configuration(run: Run) -> dict[str, Any]:
    """Every key of the composed recipe with its default, and how it was chosen."""
    defaults, overrides = flat(dataclasses.asdict(Recipe())), run.manifest["overrides"]
    choices = run.manifest["choices"].items()
    return {
        "overrides": overrides,
        "choices": [f"{group}={option}" for group, option in choices if _is_choice(group, option)],
        "rows": [_key(key, value, defaults.get(key), overrides) for key, value in flat(run.recipe).items()],
    }


def _is_choice(group: str, option: str) -> bool:
    return not group.startswith("hydra/") and "@" not in group and option != "None"


def _key(key: str, value: Any, default: Any, overrides: Sequence[str]) -> dict[str, Any]:
    names = (key, key.rpartition(".")[2])
    return {
        "key": key,
        "value": _one_line(value),
        "default": _one_line(default),
        "is_default": value == default,
        "is_override": any(text.lstrip("+").partition("=")[0] in names for text in overrides),
    }


def _one_line(value: Any) -> str:
    return written(value).replace("\n", "\\n")


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


def commands(run: Run) -> list[dict[str, str]]:
    """The command line of every step."""
    return [
        {"stage": step.stage, "title": step.title, "key": step.key, "command": plan_text.command_line(step)}
        for step in run.steps
    ]


def manifest(run: Run) -> dict[str, Any]:
    """The command that started the run; the code, versions and machine as (dotted name, text)."""
    facts = {name: value for name, value in run.manifest.items() if name not in _CONFIGURATION}
    return {
        "command": " ".join(run.manifest["command"]),
        "facts": [(name, written(value)) for name, value in flat(facts).items()],
    }
