"""Commands for a run in progress, wherever it runs: status, logs, attach, cancel, shell, fetch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands import questions, tables
from runner.commands.lifecycle import watch
from runner.commands.progress import last_progress
from runner.commands.prometheus import exposition
from runner.commands.tables import print_json, terminal
from runner.errors import RecipeError, did_you_mean
from runner.execute.run_folder import parse_event
from runner.metrics import duration
from runner.record import runs
from runner.record.runs import Run

_UNSUCCESSFUL = {"failed": 1, "stopped": 130, "killed": 1}  # how a run ended: exit status, unless the run reported one


def find(name: str, folder: Path, host: str | None) -> Run:
    """Find a recorded run; with `host`, also one that another computer started there. Raises RecipeError.

    `host` is HOST or HOST:FOLDER; the record of such a run is copied into `folder`.
    """
    if host is None:
        return runs.find(name, folder)
    machine = targets.on_host(host)
    names = machine.run_names()
    matches = runs.names_matching(name, names)
    if len(matches) > 1:
        raise RecipeError(f'"{name}" matches {len(matches)} runs on {host}: {", ".join(matches[-5:])}')
    if not matches:
        raise RecipeError(f"{name}: no such run on {host}; {did_you_mean(name, names[-10:])}")
    local = folder / matches[0]
    return Run(local if local.exists() else machine.copy_record(matches[0], folder))


def attach(run: Run, console: Console) -> int:
    """Follow a run to its end, from its first event. Returns its exit status."""
    return watch(run, targets.of_run(run), console)


def status(selected: list[Run], console: Console) -> None:
    """Print the state of runs, as the machines that they run on report it."""
    rows = [_row(run, state) for run, state in _states(selected).items()]
    headings = ("run", "where", "state", "stage", "progress", "loss", "time", "left")
    table = tables.of_rows(rows, [name for name in headings if any(row[name] for row in rows)])
    console.print(table if selected else Text("No runs are in progress."))


def _row(run: Run, state: str) -> dict[str, str]:
    """The cells of a run; how far its stage is, only as long as it is in progress."""
    now, active = last_progress(run.events()), state in runs.ACTIVE
    return {
        "run": run.name,
        "where": run.where,
        "state": state,
        "stage": now.stage,
        "progress": f"{now.done}/{now.total} {now.unit}" if now.total and active else "",
        "loss": "" if now.loss is None else f"{now.loss:.4g}",
        "time": duration(run.seconds()),
        "left": duration(now.seconds_left) if active and now.seconds_left is not None else "",
    }


def status_as_json(selected: list[Run]) -> list[dict[str, Any]]:
    """The state and the progress of runs as JSON values."""
    return [
        {"run": run.name, "where": run.where, "state": state, "seconds": run.seconds()}
        | asdict(last_progress(run.events()))
        for run, state in _states(selected).items()
    ]


def _states(selected: list[Run]) -> dict[Run, str]:
    return questions.states(runs.readable(selected, lambda run: (run.plan, run.recipe)))


def status_of_host(host: str, console: Console) -> None:
    """Print the state of all runs on a host."""
    table, overview = tables.table("run", "state", "stage", "time"), targets.on_host(host).overview()
    for run in overview:
        table.add_row(run["run"], run["state"], run["stage"], duration(run["seconds"]))
    console.print(table if overview else Text(f"No runs are on {host}."))


def logs(run: Run, stage: str | None, live: bool) -> int:
    """Print the output of a stage, by default the current one; if `live`, keep printing while it or the run goes on.

    Returns the exit status of a run that was followed and failed, was stopped (130) or killed (1), else 0. Raises
    RecipeError for an unknown stage.
    """
    stages = [step["stage"] for step in run.plan["steps"]]
    if stage and stage not in stages:
        raise RecipeError(f"{stage}: no such stage; {did_you_mean(stage, stages)}")
    target, printed = targets.of_run(run), False
    for line in target.log(run, stage, live):
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        printed = True
    if not printed:
        _explain_no_output(run, stage)
    return _exit_status(target.state(run), target.follow(run), stage) if live else 0


def _explain_no_output(run: Run, stage: str | None) -> None:
    name = stage or next(reversed(run.stages()), "no stage")
    cached = run.stages().get(name, {}).get("state") == "cached"
    reason = "cached: the log is in the run that made the artifact" if cached else "no output"
    print(f"runner: {name}: {reason}", file=sys.stderr)


def _exit_status(state: str, lines: Iterable[bytes], stage: str | None) -> int:
    """The exit status of a run in `state`: 0 while it continues, and for a `stage` of it that is done."""
    if state not in _UNSUCCESSFUL:
        return 0
    events = list(filter(None, map(parse_event, lines)))
    stages = {event["stage"]: event["state"] for event in events if event["event"] == "step"}
    if stage and stages.get(stage) in ("finished", "cached"):
        return 0
    return next((event["status"] for event in reversed(events) if event.get("status")), _UNSUCCESSFUL[state])


def cancel(run: Run, console: Console) -> int:
    """Stop a run and wait until all of its processes have ended."""
    console.print(Text(f"{run.name}: {targets.of_run(run).cancel(run)}"))
    return 0


def shell(run: Run) -> int:
    """Open a shell beside a run's files; returns its exit status. Raises RecipeError where the user can log in."""
    return targets.of_run(run).shell(run)


def fetch(run: Run, console: Console) -> int:
    """Copy the metrics, logs, samples and adapter of a remote run into its record."""
    targets.of_run(run).fetch(run, adapter=True)
    console.print(Text(str(run.folder)), soft_wrap=True)
    return 0


def _find(args: argparse.Namespace) -> Run:
    return find(args.run, args.folder, args.host)


def status_command(args: argparse.Namespace) -> int:
    """Show what runs are doing."""
    of_host = args.host if not args.run else None
    selected = [] if of_host else _selected(args)
    if not args.json and not args.prometheus:
        status_of_host(of_host, terminal()) if of_host else status(selected, terminal())
        return 0
    rows = targets.on_host(of_host).overview() if of_host else status_as_json(selected)
    print_json(rows) if args.json else print(exposition(rows), end="")
    return 0


def _selected(args: argparse.Namespace) -> list[Run]:
    """The run that was asked for, or all in progress. Raises RecipeError."""
    if args.run:
        run = _find(args)
        _ = run.plan, run.recipe  # of the run that was asked for, damage is an error
        return [run]
    states = runs.read_each(runs.every(args.folder), lambda run: run.state)
    return [run for run, state in states.items() if state in runs.ACTIVE]


def attach_command(args: argparse.Namespace) -> int:
    """Follow a run."""
    return attach(_find(args), terminal())


def logs_command(args: argparse.Namespace) -> int:
    """Print a run's output."""
    return logs(_find(args), args.stage, args.follow)


def cancel_command(args: argparse.Namespace) -> int:
    """Stop a run."""
    return cancel(_find(args), terminal())


def shell_command(args: argparse.Namespace) -> int:
    """Open a shell beside a run's files."""
    return shell(_find(args))


def fetch_command(args: argparse.Namespace) -> int:
    """Copy the results of a remote run."""
    return fetch(_find(args), terminal())


def stop_command(args: argparse.Namespace) -> int:
    """Stop a server."""
    from runner.commands.serve import servers

    is_last = args.run == "last" and not args.host
    run = servers.last(args.folder) if is_last else _find(args)
    servers.check(run)
    return cancel(run, terminal())
