"""The table of a sweep's trials, best first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Console

from runner.commands import tables
from runner.commands.progress import last_progress
from runner.metrics import RANKING
from runner.record.ranking import Objective
from runner.record.runs import Run


def show(
    runs: Sequence[Run],
    objective: Objective,
    keys: Sequence[str],
    console: Console,
    states: Mapping[Run, str] | None = None,
) -> None:
    """Print all trials, best first, with their values of `keys`. Their `states` are by default those recorded."""
    headings = ("trial", *_headings([*keys, objective.metric]), "seconds", "state")
    table = tables.table(*headings, title=f"{objective.metric}, best first", title_justify="left")
    for run in objective.ranked(runs):
        values = values_of(run.manifest["overrides"])
        value = objective.of(run)
        score = "-" if value is None else RANKING[objective.metric].text(value)
        state = _with_progress(run, (states or {}).get(run, run.state))
        cells = (run.name, *(values.get(key, "-") for key in keys), score, f"{run.seconds():.1f}", state)
        table.add_row(*cells, style="red" if run.state == "failed" else "")
    console.print(table)


def _with_progress(run: Run, state: str) -> str:
    """The state of a trial, with its stage and how far that is if it has not ended in order."""
    current = last_progress(run.events())
    if state == "finished" or not current.stage:
        return state
    progress = f" {current.done}/{current.total}" if current.done < current.total else ""
    return f"{state}: {current.stage}{progress}"


def _headings(keys: Sequence[str]) -> list[str]:
    """The last part of each key, or the whole keys if these are not unique."""
    last = [key.rpartition(".")[2] for key in keys]
    return last if len(set(last)) == len(last) else list(keys)


def values_of(overrides: Sequence[str]) -> dict[str, str]:
    """The values of overrides by key or group, with long fractions rounded for display.

    >>> values_of(["train.learning_rate=0.00038177675111", "tp_size='2'"])
    {'train.learning_rate': '0.0003818', 'tp_size': '2'}
    """
    parts = (override.partition("=") for override in overrides)
    return {name: _short(value.strip("'")) for name, _, value in parts}


def _short(value: str) -> str:
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d*\.\d{4,}(e-?\d+)?", value) else value
