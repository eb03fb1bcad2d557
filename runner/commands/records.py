"""Tables of recorded runs: `runner runs`, `show`, `compare` and `diff`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.commands import summary, tables
from runner.commands.tables import print_json, terminal
from runner.errors import RecipeError
from runner.metrics import RANKING, decisive, duration
from runner.record import cost, ranking
from runner.record.differences import as_written, differing
from runner.record.runs import Run, every, find, find_all, read_each

_LABEL_WIDTH = 20  # columns: room for two runs beside it in a terminal of 80
_LAST_LINES = 10  # of the log of a stage that failed


def runs(every: Sequence[Run], console: Console) -> None:
    """Print one line per run: its state, time, cost if any has a price, and main metric."""
    rows = read_each(every, lambda run: _row(run, console))
    headings = ("run", "state", "time", "cost", "adapter", "overrides")
    shown = [name for name in headings if name != "cost" or any(row["cost"] for row in rows.values())]
    if every:
        tables.print_rows(list(rows.values()), shown, console)
    else:
        console.print("No runs yet.")


def _row(run: Run, console: Console) -> dict[str, str | Text]:
    return {
        "run": run.name,
        "state": run.state,
        "time": duration(run.seconds()),
        "cost": cost.text(cost.cost(run)),
        "adapter": headline(run),
        "overrides": tables.one_line(" ".join(run.manifest["overrides"]), console),
    }


def as_json(run: Run) -> dict[str, Any]:
    """A run as JSON values: its origin, state, stages and metrics."""
    manifest = run.manifest
    return {
        "run": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "recipe": manifest["recipe"],
        "overrides": manifest["overrides"],
        "started": manifest["started"],
        "seconds": run.seconds(),
        "stages": [
            {"stage": stage, "state": event["state"], "seconds": event.get("seconds")}
            for stage, event in run.stages().items()
        ],
        "metrics": run.metrics(),
    }


def show(run: Run, console: Console) -> None:
    """Print one run: its origin, the state of each stage, and its outcome."""
    manifest, git = run.manifest, run.manifest["git"]
    changes = " and uncommitted.diff" if git and git["changed"] else ""
    code = f"commit {git['commit'][:12]}{changes}" if git else "not in a git repository"
    for name, value in (
        ("run", run.name),
        ("state", run.state),
        ("recipe", " ".join([manifest["recipe"], *manifest["overrides"]])),
        ("started", manifest["started"]),
        ("code", code),
        ("machine", f"{manifest['machine']['host']}, Python {manifest['python']}"),
        ("cost", cost.text(cost.cost(run))),
    ):
        if value:
            tables.say_labelled(console, name, value)
    table = tables.table("stage", "state", "seconds", "artifact")
    for step in run.plan["steps"]:
        event = run.stages().get(step["stage"], {})
        table.add_row(step["stage"], event.get("state", "-"), _seconds(event), step["key"])
    console.print(table)
    _show_failure(run, console)
    summary.show(run, console)


def _seconds(event: Mapping[str, Any]) -> str:
    return f"{event['seconds']:.1f}" if "seconds" in event else ""


def _show_failure(run: Run, console: Console) -> None:
    """Why a run did not finish, and the last lines of its log."""
    stages = run.stages()
    if run.state == "pruned":
        tables.say_labelled(console, "pruned", run.prune_reason or "", "yellow")
    if run.state not in ("failed", "killed") or not stages:
        return
    stage, event = next(reversed(stages.items()))
    reason = event.get("reason", "ended without an event: it was killed, or its machine went down")
    tables.say_labelled(console, run.state, f"{stage}: {reason}", "red")
    log = run.folder / "logs" / f"{stage}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    for line in lines[-_LAST_LINES:]:
        console.print(Text(f"{'':<8} {line}", style="dim"), soft_wrap=True)
    console.print()


def compare(several: Sequence[Run], console: Console) -> None:
    """Print a leaderboard, best first: the metrics of the runs and the keys in which they differ.

    A table that is too wide is turned, to a column per run; if that is too wide too, the last metrics are left out.
    """
    _, ranked = ranking.rank(several)
    differ = differing([run.recipe for run, _ in ranked])
    columns = {
        "run": [run.name for run, _ in ranked],
        "state": [run.state for run, _ in ranked],
        **{key: [as_written(value) for value in values] for key, values in differ.items()},
    }
    if set(columns["state"]) == {"finished"}:
        del columns["state"]
    measured = _measured([values for _, values in ranked])
    table = _row_per_run(columns | measured)
    turned = _column_per_run(columns | measured)
    if not tables.fits(table, console) and tables.fits(turned, console):
        table = turned
    left_out: list[str] = []
    while not tables.fits(table, console) and len(measured) > 1:
        left_out = [measured.popitem()[0], *left_out]
        table = _row_per_run(columns | measured)
    console.print(table)
    if left_out:
        console.print(Text(f"not shown: {', '.join(left_out)}; a wider terminal or --json has them"))


def _measured(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """The values of each metric that any of the runs has, under its title."""
    names = (name for name in RANKING if any(name in values for values in metrics))
    return {RANKING[name].title: [_metric(name, values) for values in metrics] for name in names}


def _row_per_run(columns: Mapping[str, Sequence[str]]) -> Table:
    table = tables.table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _column_per_run(columns: Mapping[str, Sequence[str]]) -> Table:
    rows = [(name, *values) for name, values in columns.items()]
    table = tables.table(*("" if name == "run" else name for name in rows[0]))
    table.columns[0].max_width = _LABEL_WIDTH
    for row in rows[1:]:
        table.add_row(*row)
    return table


def compared(several: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs as JSON values, best first, each with its values of the `keys` that differ."""
    ranked = [run for run, _ in ranking.rank(several)[1]]
    differ = differing([run.recipe for run in ranked])
    return [
        as_json(run) | {"keys": {key: values[place] for key, values in differ.items()}}
        for place, run in enumerate(ranked)
    ]


def _metric(name: str, metrics: Mapping[str, float]) -> str:
    return RANKING[name].text(metrics[name]) if name in metrics else "-"


def diff(first: Mapping[str, Any], second: Mapping[str, Any], console: Console) -> None:
    """Print the keys in which two recipes differ."""
    table = tables.table("key", "first", "second")
    for key, (left, right) in differing([first, second]).items():
        table.add_row(key, as_written(left), as_written(right))
    console.print(table if table.row_count else "No differences.")


def headline(run: Run) -> str:
    """The metric that tells most of a run, with its title; empty where nothing was measured."""
    metrics = run.metrics()
    name = decisive([metrics])
    return f"{RANKING[name].title} {RANKING[name].text(metrics[name])}" if name else ""


def runs_command(args: argparse.Namespace) -> int:
    """List the recorded runs."""
    found = every(args.folder)
    print_json(list(read_each(found, as_json).values())) if args.json else runs(found, terminal())
    return 0


def show_command(args: argparse.Namespace) -> int:
    """Show a run."""
    run = find(args.run, args.folder)
    _fetch_results([run])
    print_json(as_json(run)) if args.json else show(run, terminal())
    return 0


def compare_command(args: argparse.Namespace) -> int:
    """Compare runs."""
    several = _runs_of(args)
    print_json(compared(several)) if args.json else compare(several, terminal())
    return 0


def report_command(args: argparse.Namespace) -> int:
    """Write a report."""
    from runner.record import report  # 0.1 s that other commands need not spend

    selected = _runs_of(args)
    if args.output:
        report.check_free(selected, args.output)
    print(report.write(selected, args.output or report.default_path(selected, args.folder)))
    return 0


def _runs_of(args: argparse.Namespace) -> list[Run]:
    runs = [run for name in args.runs for run in find_all(name, args.folder)]
    _fetch_results(runs)
    return runs


def _fetch_results(runs: Sequence[Run]) -> None:
    from runner.commands.fetching import fetch_results  # brings all targets, which a list of runs need not import

    fetch_results(runs)


def diff_command(args: argparse.Namespace) -> int:
    """Show what differs between two recipes or runs."""
    from runner.compose.recipe import compose  # brings Hydra, which no other command here needs

    def recipe_of(name: str) -> Mapping[str, Any]:
        try:
            return asdict(compose(name).recipe)
        except RecipeError:
            return find(name, args.folder).recipe

    diff(recipe_of(args.first), recipe_of(args.second), terminal())
    return 0
