"""What can be asked of a run while it lives, wherever that is: status, logs, attach, cancel, fetch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands import tables
from runner.commands.arguments import add_run
from runner.commands.lifecycle import watch
from runner.commands.tables import terminal
from runner.errors import RecipeError, did_you_mean
from runner.metrics import duration
from runner.record import runs
from runner.record.runs import Run


def find(name: str, folder: Path, host: str | None) -> Run:
    """A recorded run; with `host` also one that was started from another computer. Raises RecipeError.

    `host` is HOST or HOST:FOLDER; the record of such a run is brought into `folder`.
    """
    if host is None:
        return runs.find(name, folder)
    machine = targets.on_host(host)
    names = machine.run_names()
    fitting = names[-1:] if name == "last" else [one for one in names if one == name] or [o for o in names if name in o]
    if len(fitting) != 1:
        raise RecipeError(f"{name}: no such run, or several, on {host}; {did_you_mean(name, names[-10:])}")
    [found] = fitting
    return Run(folder / found if (folder / found).exists() else machine.copy_record(found, folder))


def names(host: str) -> list[str]:
    """Of all runs on a host, oldest first."""
    return targets.on_host(host).run_names()


def attach(one: Run, console: Console) -> int:
    """Follow a run to its end, from its first event. Returns its exit status."""
    return watch(one, targets.of_run(one), console)


def status(several: list[Run], console: Console) -> None:
    """What runs are doing, asked where they run."""
    table = tables.table("run", "where", "state", "stage", "time")
    for one in several:
        at = next(reversed(one.stages()), "")
        table.add_row(one.name, one.where, targets.of_run(one).state(one), at, duration(one.seconds()))
    console.print(table if several else Text("no run is in progress"))


def logs(one: Run, stage: str | None, live: bool) -> int:
    """Print the output of a stage, by default of the one at work, and while it grows if `live`.

    Returns the exit status of a run whose failure was watched. Raises RecipeError for a stage that the run has not.
    """
    stages = [step["stage"] for step in one.plan["steps"]]
    if stage and stage not in stages:
        raise RecipeError(f"{stage}: no such stage; {did_you_mean(stage, stages)}")
    target, printed = targets.of_run(one), False
    for line in target.log(one, stage, live):
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        printed = True
    if not printed:
        _say_why_empty(one, stage)
    if not live or target.state(one) != "failed":
        return 0
    return _exit_status(list(target.follow(one)), stage)


def _say_why_empty(one: Run, stage: str | None) -> None:
    name = stage or next(reversed(one.stages()), "no stage")
    states = {"cached": "its artifact was there already, from the run that has the log"}
    why = states.get(one.stages().get(name, {}).get("state", ""), "printed nothing")
    print(f"runner: {name}: {why}", file=sys.stderr)


def _exit_status(events: list[bytes], stage: str | None) -> int:
    """The exit status of a run that failed, if it did in `stage`, or nobody asked for one."""
    happened = [json.loads(line) for line in events]
    failed = [event["stage"] for event in happened if event["event"] == "step" and event["state"] == "failed"]
    statuses = [event["status"] for event in happened if event["event"] == "run" and event["state"] == "failed"]
    return statuses[-1] if statuses and (not stage or stage in failed) else 0


def cancel(one: Run, console: Console) -> int:
    """End a run and wait until nothing of it is left."""
    console.print(Text(f"{one.name}: {targets.of_run(one).cancel(one)}"))
    return 0


def shell(one: Run) -> int:
    """A shell beside the files of a run; returns its exit status. Raises RecipeError where the user can log in."""
    return targets.of_run(one).shell(one)


def fetch(one: Run, console: Console) -> int:
    """Bring figures, logs, samples and the adapter of a run into its record."""
    targets.of_run(one).fetch(one, adapter=True)
    console.print(Text(str(one.folder)), soft_wrap=True)
    return 0


def add_status(parser: argparse.ArgumentParser) -> None:
    """A run; without one, all in progress."""
    _add_run(parser)
    parser.set_defaults(command=_status, run=None)


def add_attach(parser: argparse.ArgumentParser) -> None:
    """A run."""
    _add_run(parser)
    parser.set_defaults(command=lambda args: attach(_find(args), terminal()))


def add_logs(parser: argparse.ArgumentParser) -> None:
    """A run and a stage of it."""
    _add_run(parser)
    parser.add_argument("--stage", help="default: the one in progress")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing while it grows")
    parser.set_defaults(command=lambda args: logs(_find(args), args.stage, args.follow))


def add_cancel(parser: argparse.ArgumentParser) -> None:
    """A run."""
    _add_run(parser)
    parser.set_defaults(command=lambda args: cancel(_find(args), terminal()))


def add_stop(parser: argparse.ArgumentParser) -> None:
    """A server's run."""
    _add_run(parser)
    parser.set_defaults(command=_stop)


def add_shell(parser: argparse.ArgumentParser) -> None:
    """A run on Kubernetes."""
    _add_run(parser)
    parser.set_defaults(command=lambda args: shell(_find(args)))


def add_fetch(parser: argparse.ArgumentParser) -> None:
    """A remote run."""
    _add_run(parser)
    parser.set_defaults(command=lambda args: fetch(_find(args), terminal()))


def _add_run(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--host", help="HOST or HOST:FOLDER, for a run that another computer started there")


def _find(args: argparse.Namespace) -> Run:
    return find(args.run, args.folder, args.host)


def _status(args: argparse.Namespace) -> int:
    if args.run:
        selected = [_find(args)]
    elif args.host:
        selected = [find(name, args.folder, args.host) for name in names(args.host)]
    else:
        selected = [run for run in runs.every(args.folder) if run.state in ("running", "away")]
    status(selected, terminal())
    return 0


def _stop(args: argparse.Namespace) -> int:
    from runner.commands.serve import servers

    is_last = args.run == "last" and not args.host
    run = servers.last(args.folder) if is_last else _find(args)
    servers.check(run)
    return cancel(run, terminal())
