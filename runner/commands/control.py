"""What can be asked of a run while it lives, wherever that is: status, logs, attach, cancel, fetch."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner import targets
from runner.commands.lifecycle import watch
from runner.compose.schema import Target as Settings
from runner.compose.validate import build
from runner.errors import RecipeError, did_you_mean
from runner.metrics import duration
from runner.record import runs
from runner.record.runs import Run

if TYPE_CHECKING:
    from runner.targets import ssh


def find(name: str, folder: Path, host: str | None) -> Run:
    """A recorded run; with `host` also one that was started from another computer. Raises RecipeError.

    `host` is HOST or HOST:FOLDER; the record of such a run is brought into `folder`.
    """
    if host is None:
        return runs.find(name, folder)
    far = _far(host)
    names = far.names()
    fitting = names[-1:] if name == "last" else [one for one in names if one == name] or [o for o in names if name in o]
    if len(fitting) != 1:
        raise RecipeError(f"{name}: no such run, or several, on {host}; {did_you_mean(name, names[-10:])}")
    return Run(far.record(fitting[0], folder)) if not (folder / fitting[0]).exists() else Run(folder / fitting[0])


def names(host: str) -> list[str]:
    """Of all runs on a host, oldest first."""
    return _far(host).names()


def _far(host: str) -> ssh.Target:
    from runner.targets import ssh  # 0.1 s that other commands need not spend

    name, _, folder = host.partition(":")
    settings = Settings(kind="ssh", host=name)
    return ssh.Target(dataclasses.replace(settings, folder=folder or settings.folder))


def attach(one: Run, console: Console) -> int:
    """Follow a run to its end, from its first event. Returns its exit status."""
    return watch(one, targets.of_run(one), console)


def status(several: list[Run], console: Console) -> None:
    """What runs are doing, asked where they run."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("run", "where", "state", "stage", "time"):
        table.add_column(heading, overflow="fold")
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
    return _status(list(target.follow(one)), stage)


def _say_why_empty(one: Run, stage: str | None) -> None:
    name = stage or next(reversed(one.stages()), "no stage")
    states = {"cached": "its artifact was there already, from the run that has the log"}
    why = states.get(one.stages().get(name, {}).get("state", ""), "printed nothing")
    print(f"runner: {name}: {why}", file=sys.stderr)


def _status(events: list[bytes], stage: str | None) -> int:
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
    """A shell beside the files of a run. Raises RecipeError for a target whose machine one can log in to."""
    from runner.targets.kubernetes import target as kubernetes

    settings = build(Settings, one.recipe["target"])
    if settings.kind != "kubernetes":
        raise RecipeError(f"shell: is for target=kubernetes; log in to {settings.host or 'this machine'} instead")
    return kubernetes.Target(settings).shell(one)


def fetch(one: Run, console: Console) -> int:
    """Bring figures, logs, samples and the adapter of a run into its record."""
    targets.of_run(one).fetch(one, adapter=True)
    console.print(Text(str(one.folder)), soft_wrap=True)
    return 0
