"""The report of several runs: which is best, and what made the difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.metrics import EVALUATION, RANKING, Metric, duration
from runner.record import cost, ranking
from runner.record.differences import differing, flat
from runner.record.report import charts, parts
from runner.record.report.charts import Trial
from runner.record.report.page import Document, Section, Verdict
from runner.record.runs import Run

_COLOURS, _MUTED = 8, "rest"  # runs after the best eight share a muted one
_COLUMNS = ("base.execution_accuracy", *RANKING)


@dataclass(frozen=True)
class Entry:
    """A run in the comparison: the colour of its rank, the values of the keys that differ, its metrics."""

    run: Run
    colour: str
    keys: dict[str, Any]
    metrics: Mapping[str, float]

    @cached_property
    def seconds(self) -> float:
        """How long the run took."""
        return self.run.seconds()

    @cached_property
    def cost(self) -> float | None:
        """What the run has cost, in US dollars."""
        return cost.cost(self.run)

    @cached_property
    def state(self) -> str:
        """The state of the run."""
        return self.run.state

    @property
    def name(self) -> str:
        """The values in which it differs, or its own name if it differs in none."""
        values = [f"{_leaf(key)} {parts.written(value)}" for key, value in self.keys.items()]
        return ", ".join(values) or self.run.name


def document(runs: Sequence[Run]) -> Document:
    """Best first: the ranking, plots of the decisive metric, the training curves over one another."""
    objective, ranked = ranking.rank(runs)
    metric = objective.metric if objective else None
    entries = _entries(ranked)
    return Document(
        runs=[run.name for run in runs],
        title=", ".join(sorted({run.recipe["name"] for run in runs})),
        label=f"Comparison of {len(runs)} runs",
        verdict=_verdict(entries, metric),
        facts=_facts(entries),
        sections=[
            Section("ranking", "Ranking", _table(entries, metric)),
            Section("plots", "What made the difference", _plots(entries, metric)),
            Section("training", "Training", _training(entries)),
            Section("stages", "Stages", _stages(entries), "stage_times"),
            Section("configuration", "Configuration of the best", parts.configuration(entries[0].run)),
            Section("provenance", "Provenance", _provenance(entries), "provenances"),
        ],
    )


def _entries(ranked: Sequence[tuple[Run, Mapping[str, float]]]) -> list[Entry]:
    keys = [key for key in differing([run.recipe for run, _ in ranked]) if not key.startswith(("paths.", "tracker."))]
    colours = [f"run{n}" if n < _COLOURS else _MUTED for n in range(len(ranked))]
    return [
        Entry(run, colour, {key: flat(run.recipe).get(key) for key in keys}, metrics)
        for (run, metrics), colour in zip(ranked, colours, strict=True)
    ]


def _verdict(entries: Sequence[Entry], name: str | None) -> Verdict:
    if name is None:
        return Verdict("No run has been measured.")
    best, metric = entries[0], RANKING[name]
    others = [entry.metrics[name] for entry in entries[1:] if name in entry.metrics]
    rest = f"; the others {metric.text(others[0])} to {metric.text(others[-1])}" if others else ""
    lead = best.name + rest + _caution(entries, name)
    return Verdict("Best:", after=f"{metric.title} {metric.text(best.metrics[name])}", lead=lead)


def _caution(entries: Sequence[Entry], name: str) -> str:
    """How many runs the best one may only be luckier than, where the metric is a share of few examples."""
    best = _interval(entries[0], name)
    if best is None:
        return ""
    near = sum(best[0] <= entry.metrics.get(name, -1) <= best[1] for entry in entries[1:])
    verb = "is" if near == 1 else "are"
    return f". 95 % confidence interval of the best: {parts.interval(best)}; {near} of the others {verb} within it"


def _interval(entry: Entry, name: str) -> tuple[float, float] | None:
    examples = (entry.run.result("evaluate", "report.json") or {}).get("examples", 0)
    return _metric(name).interval(entry.metrics[name], examples) if name in entry.metrics else None


def _facts(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    states = [entry.state for entry in entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    started = sorted(entry.run.manifest["started"] for entry in entries)
    facts = [
        ("Runs", counts),
        ("Differ in", ", ".join(entries[0].keys) or "nothing"),
        ("Started", started[0][:16].replace("T", " ")),
        ("Time in all", duration(sum(entry.seconds for entry in entries))),
        ("Cost in all", cost.text(cost.total(entry.cost for entry in entries))),
    ]
    return [(name, value) for name, value in facts if value]


def _table(entries: Sequence[Entry], decisive: str | None) -> dict[str, Any]:
    shown = [name for name in _COLUMNS if name == decisive or _differs(name, entries)]
    priced = any(entry.cost is not None for entry in entries)
    best = {name: entries[0].metrics[name] if name == decisive else _best(name, entries) for name in shown}
    columns = [
        *({"heading": _leaf(key), "title": key, "decisive": False} for key in entries[0].keys),
        *({"heading": _title(name), "title": name, "decisive": name == decisive} for name in shown),
        {"heading": "seconds", "title": "", "decisive": False},
        *([{"heading": "cost", "title": "US dollars", "decisive": False}] if priced else []),
    ]
    rows = [_row(entry, best, priced) for entry in entries]
    return {"metric": decisive and _title(decisive), "columns": columns, "rows": rows}


def _differs(name: str, entries: Sequence[Entry]) -> bool:
    return len({entry.metrics.get(name) for entry in entries}) > 1


def _title(name: str) -> str:
    return RANKING[name].title if name in RANKING else f"{name.partition('.')[0]}'s {_metric(name).title}"


def _metric(name: str) -> Metric:
    return RANKING.get(name) or EVALUATION[name.partition(".")[2]]


def _best(name: str, entries: Sequence[Entry]) -> float:
    """The best value of a metric; NaN for one of the base model, which no run has influenced."""
    if name not in RANKING:
        return math.nan
    return min((entry.metrics[name] for entry in entries if name in entry.metrics), key=RANKING[name].sort_key)


def _row(entry: Entry, best: Mapping[str, float], priced: bool) -> dict[str, Any]:
    cells = [_cell(parts.written(value), value) for value in entry.keys.values()]
    for name, best_value in best.items():
        value = entry.metrics.get(name)
        cells.append(_cell("-" if value is None else _metric(name).text(value), value, value == best_value))
    cells.append(_cell(f"{entry.seconds:,.0f}", entry.seconds))
    if priced:
        cells.append(_cell(cost.text(entry.cost) or "-", entry.cost))
    return {"colour": entry.colour, "run": entry.run.name, "state": entry.state, "cells": cells}


def _cell(text: str, value: Any, best: bool = False) -> dict[str, Any]:
    return {"text": text, "value": value, "best": best}


def _plots(entries: Sequence[Entry], name: str | None) -> dict[str, Any] | None:
    """The decisive metric against every key that differs, and against all of them at once."""
    measured = [entry for entry in entries if name and name in entry.metrics]
    keys = _independent(measured)
    if name is None or len(measured) < 2 or not keys:
        return None
    trials = [_trial(entry, keys, name, entry is measured[0]) for entry in measured]
    return {
        "metric": parts.capitalized(RANKING[name].title),
        "plots": [_plot(key, heading, trials, name) for key, heading in keys.items()],
        "parallel": _parallel(keys, trials, name) if len(keys) > 1 else None,
    }


def _independent(entries: Sequence[Entry]) -> dict[str, str]:
    """The keys that differ, each with a heading; keys that change together, like rank and alpha, count as one."""
    by_pattern: dict[tuple[int, ...], list[str]] = {}
    for key in entries[0].keys if entries else ():
        values = [parts.written(entry.keys[key]) for entry in entries]
        by_pattern.setdefault(tuple(map(values.index, values)), []).append(key)
    return {keys[0]: ", ".join(map(_leaf, keys)) for pattern, keys in by_pattern.items() if any(pattern)}


def _trial(entry: Entry, keys: Mapping[str, str], metric: str, best: bool) -> Trial:
    values = {key: _plottable(entry.keys[key]) for key in keys}
    name = f"{entry.name}: {RANKING[metric].text(entry.metrics[metric])}"
    interval = _interval(entry, metric) if entry.colour != _MUTED else None
    return Trial(name, entry.colour, {**values, metric: entry.metrics[metric]}, best, interval)


def _plottable(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else parts.written(value)


def _plot(key: str, heading: str, trials: Sequence[Trial], name: str) -> dict[str, Any]:
    metric = RANKING[name]
    svg = charts.against(trials, key, name, (heading, metric.title), _tick(metric))
    return {"key": key, "heading": heading, "svg": svg}


def _parallel(keys: Mapping[str, str], trials: Sequence[Trial], name: str) -> str:
    metric = RANKING[name]
    title = f"{metric.title} and {'; '.join(keys.values())} of {len(trials)} runs as parallel axes"
    return charts.parallel(trials, [*keys.items(), (name, metric.title)], title, _tick(metric))


def _tick(metric: Metric) -> Callable[[float], str]:
    return (lambda value: f"{100 * value:.4g}%") if metric.share else (lambda value: f"{value:.3g}")


def _leaf(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _training(entries: Sequence[Entry]) -> dict[str, Any] | None:
    histories = [parts.history(entry.run, entry.name, entry.colour) for entry in entries]
    trained = [history for history in histories if history.metrics]
    if not trained:
        return None
    legend = [(history.name, history.colour) for history in trained if history.colour != _MUTED]
    if len(trained) > len(legend):
        legend.append((f"{len(trained) - len(legend)} others", _MUTED))
    return {"lead": "", "legend": legend, "charts": parts.curves(trained)}


def _stages(entries: Sequence[Entry]) -> dict[str, Any]:
    stages = list(dict.fromkeys(step["stage"] for entry in entries for step in entry.run.plan["steps"]))
    return {"stages": stages, "rows": [_times(entry, stages) for entry in entries]}


def _times(entry: Entry, stages: Sequence[str]) -> dict[str, Any]:
    events = entry.run.stages()
    return {"colour": entry.colour, "name": entry.name, "cells": [_time(events.get(stage, {})) for stage in stages]}


def _time(event: dict[str, Any]) -> dict[str, Any]:
    finished = event.get("state") == "finished"
    return {"finished": finished, "text": f"{event['seconds']:,.1f}" if finished else event.get("state", "-")}


def _provenance(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [{"run": entry.run.name, "name": entry.name, "manifest": parts.manifest(entry.run)} for entry in entries]
