"""The report of several runs: which is best, and what made the difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner import metrics as figures
from runner.metrics import RANKING, Figure, duration
from runner.record import ranking
from runner.record.differences import differing, flat
from runner.record.report import charts, markup, parts
from runner.record.report.charts import Trial
from runner.record.report.markup import Html, joined, tag
from runner.record.report.page import Document, Section
from runner.record.runs import Run

_COLOURS = 8  # runs after the best eight share a quiet one
_SHOWN = ("base.execution_accuracy", *RANKING)


@dataclass(frozen=True)
class Entry:
    """A run in the comparison: its rank's colour, the values of the keys that differ, its figures."""

    run: Run
    colour: str
    keys: dict[str, Any]
    metrics: Mapping[str, float]

    @property
    def name(self) -> str:
        said = [f"{_leaf(key)} {parts.written(value)}" for key, value in self.keys.items()]
        return ", ".join(said) or self.run.name


def document(runs: Sequence[Run]) -> Document:
    """Best first: the ranking, plots of the figure that decides, the curves over one another."""
    objective, ranked = ranking.rank(runs)
    metric = objective.metric if objective else None
    entries = _entries(ranked)
    names = sorted({run.recipe["name"] for run in runs})
    return Document(
        title=", ".join(names),
        label=f"Comparison of {len(runs)} runs",
        verdict=_verdict(entries, metric),
        facts=_facts(entries),
        sections=[
            Section("ranking", "Ranking", _table(entries, metric)),
            _plots(entries, metric),
            _curves(entries),
            Section("stages", "Stages", _stages(entries)),
            Section("configuration", "Configuration of the best", parts.configuration(entries[0].run)),
            Section("provenance", "Provenance", _provenance(entries)),
        ],
    )


def _entries(ranked: Sequence[tuple[Run, Mapping[str, float]]]) -> list[Entry]:
    keys = [key for key in differing([run.recipe for run, _ in ranked]) if not key.startswith(("paths.", "tracker."))]
    colours = [f"run{n}" if n < _COLOURS else "rest" for n in range(len(ranked))]
    return [
        Entry(run, colour, {key: flat(run.recipe).get(key) for key in keys}, metrics)
        for (run, metrics), colour in zip(ranked, colours, strict=True)
    ]


def _verdict(entries: Sequence[Entry], metric: str | None) -> Html:
    if metric is None:
        return tag("p", "No run has been measured.", class_="verdict")
    best, figure = entries[0], RANKING[metric]
    others = [entry.metrics[metric] for entry in entries[1:] if metric in entry.metrics]
    reached = tag("strong", f"{figure.title} {figure.text(best.metrics[metric])}")
    rest = f"; the others {figure.text(others[0])} to {figure.text(others[-1])}" if others else ""
    return joined([tag("p", "Best: ", reached, class_="verdict"), tag("p", best.name, rest, class_="lead")])


def _facts(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    states = [entry.run.state for entry in entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    started = sorted(entry.run.manifest["started"] for entry in entries)
    return [
        ("Runs", counts),
        ("Differ in", ", ".join(entries[0].keys) or "nothing"),
        ("Started", started[0][:16].replace("T", " ")),
        ("Time in all", duration(sum(entry.run.seconds() for entry in entries))),
    ]


def _table(entries: Sequence[Entry], metric: str | None) -> Html:
    shown = [name for name in _SHOWN if name == metric or _telling(name, entries)]
    best = {name: entries[0].metrics[name] if name == metric else _best(name, entries) for name in shown}
    headings = [
        tag("th", scope="col"),
        _heading("run"),
        *(_heading(_leaf(key), "number", key) for key in entries[0].keys),
        *(_heading(_title(name), "number decisive" if name == metric else "number", name) for name in shown),
        _heading("seconds", "number"),
    ]
    said = tag("p", f"Best first, by {_title(metric)}. A heading sorts the table by its column.", class_="note")
    rows = (_row(entry, shown, best) for entry in entries)
    return joined([said if metric else None, markup.table(headings, rows, class_="figures ranking sortable")])


def _telling(name: str, entries: Sequence[Entry]) -> bool:
    """Whether the runs differ in a figure."""
    return len({entry.metrics.get(name) for entry in entries}) > 1


def _heading(text: str, class_: str | None = None, title: str | None = None) -> Html:
    return tag("th", tag("button", text, type="button"), scope="col", class_=class_, title=title)


def _title(name: str | None) -> str:
    if name is None:
        return ""
    return RANKING[name].title if name in RANKING else f"{name.partition('.')[0]}'s {_figure(name).title}"


def _figure(name: str) -> Figure:
    return RANKING.get(name) or figures.EVALUATION[name.partition(".")[2]]


def _best(name: str, entries: Sequence[Entry]) -> float:
    """The best value of a figure; a base model's has none, as no run had a part in it."""
    if name not in RANKING:
        return math.nan
    return min((entry.metrics[name] for entry in entries if name in entry.metrics), key=RANKING[name].best_first)


def _row(entry: Entry, shown: Sequence[str], best: dict[str, float]) -> Html:
    cells = [
        tag("td", tag("span", "", class_=f"swatch {entry.colour}")),
        tag("td", _folder(entry.run)),
        *(_sorted_by(parts.written(value), value, "") for value in entry.keys.values()),
    ]
    for name in shown:
        value = entry.metrics.get(name)
        text = "-" if value is None else _figure(name).text(value)
        cells.append(_sorted_by(text, value, "best" if value == best[name] else ""))
    cells.append(_sorted_by(f"{entry.run.seconds():,.0f}", entry.run.seconds(), ""))
    return tag("tr", *cells)


def _folder(run: Run) -> Html:
    state = None if run.state == "finished" else tag("span", run.state, class_="mark")
    return joined([tag("code", run.name), state])


def _sorted_by(text: str, value: Any, class_: str) -> Html:
    return tag("td", text, class_=f"number {class_}".strip(), data_value=text if value is None else value)


def _plots(entries: Sequence[Entry], metric: str | None) -> Section | None:
    """The figure that decides against every key that differs, and all of them at once."""
    measured = [entry for entry in entries if metric and metric in entry.metrics]
    keys = _independent(measured)
    if metric is None or len(measured) < 2 or not keys:
        return None
    figure = RANKING[metric]
    trials = [_trial(entry, keys, metric, entry is measured[0]) for entry in measured]
    small = tag("div", *(_plot(key, heading, trials, metric) for key, heading in keys.items()), class_="charts small")
    wide = tag("figure", tag("div", _parallel(keys, trials, metric), class_="chart")) if len(keys) > 1 else None
    note = tag(
        "p",
        f"{markup.capital(figure.title)} against each key; a line joins runs that differ in that key alone.",
        class_="note",
    )
    return Section("plots", "What made the difference", joined([note, small, wide]))


def _independent(entries: Sequence[Entry]) -> dict[str, str]:
    """The keys that differ, each with a heading; keys that change together, like rank and alpha, count as one."""
    together: dict[tuple[int, ...], list[str]] = {}
    for key in entries[0].keys if entries else ():
        values = [parts.written(entry.keys[key]) for entry in entries]
        together.setdefault(tuple(map(values.index, values)), []).append(key)
    return {keys[0]: ", ".join(map(_leaf, keys)) for pattern, keys in together.items() if any(pattern)}


def _parallel(keys: dict[str, str], trials: Sequence[Trial], metric: str) -> Html:
    figure = RANKING[metric]
    title = f"{figure.title} and {'; '.join(keys.values())} of {len(trials)} runs as parallel axes"
    return charts.parallel(trials, [*keys.items(), (metric, figure.title)], title, _tick(figure))


def _trial(entry: Entry, keys: dict[str, str], metric: str, best: bool) -> Trial:
    values = {key: _plain(entry.keys[key]) for key in keys}
    name = f"{entry.name}: {RANKING[metric].text(entry.metrics[metric])}"
    return Trial(name, entry.colour, {**values, metric: entry.metrics[metric]}, best)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else parts.written(value)


def _plot(key: str, heading: str, trials: Sequence[Trial], metric: str) -> Html:
    figure = RANKING[metric]
    chart = charts.against(trials, key, metric, f"{figure.title} against {heading}", _tick(figure))
    caption = tag("figcaption", tag("b", heading), tag("span", key, class_="note"))
    return tag("figure", caption, tag("div", chart, class_="chart"))


def _tick(figure: Figure) -> Any:
    return (lambda value: f"{value:.3g}") if not figure.share else (lambda value: f"{100 * value:.4g}%")


def _leaf(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _curves(entries: Sequence[Entry]) -> Section | None:
    histories = [(entry.name, entry.colour, parts.training(entry.run)) for entry in entries]
    trained = [one for one in histories if one[2]]
    if not trained:
        return None
    legend = (tag("li", tag("span", "", class_=f"swatch {colour}"), name) for name, colour, _ in trained)
    return Section("training", "Training", joined([tag("ul", *legend, class_="legend"), parts.curves(trained)]))


def _stages(entries: Sequence[Entry]) -> Html:
    stages = list(dict.fromkeys(step["stage"] for entry in entries for step in entry.run.plan["steps"]))
    headings = ["", "run", *(tag("th", stage, scope="col", class_="number") for stage in stages)]
    note = tag("p", "Seconds; a stage that several runs share is done once.", class_="note")
    return joined([note, markup.table(headings, [_times(entry, stages) for entry in entries], class_="figures")])


def _times(entry: Entry, stages: Sequence[str]) -> Html:
    happened = entry.run.stages()
    cells = [_time(happened.get(stage, {})) for stage in stages]
    return tag("tr", tag("td", tag("span", "", class_=f"swatch {entry.colour}")), tag("td", entry.name), *cells)


def _time(event: dict[str, Any]) -> Html:
    if event.get("state") == "finished":
        return markup.number(f"{event['seconds']:,.1f}")
    return markup.number(event.get("state", "-"), "note")


def _provenance(entries: Sequence[Entry]) -> Html:
    return joined(
        tag("details", tag("summary", tag("b", entry.run.name), f" {entry.name}"), parts.provenance(entry.run))
        for entry in entries
    )
