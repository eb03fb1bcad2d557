"""`runner sweep`: how far a sweep is, and one of its trials again."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from runner import targets
from runner.commands import lifecycle, questions, records
from runner.commands.sweep import leaderboard
from runner.commands.sweep.remaining import time_left
from runner.commands.tables import print_json, say_labelled, terminal
from runner.compose.composed import Composed
from runner.errors import RecipeError, did_you_mean
from runner.execute.run_folder import SWEEP
from runner.record import contents, create, runs
from runner.record.contents import read_json
from runner.record.ranking import Objective
from runner.record.runs import Run


def show(folder: Path, console: Console) -> None:
    """Print the trials of a sweep, best first, which of them failed and why, the best so far, and what is left."""
    sweep, trials = _described(folder), _trials(folder)
    states = _states(trials)
    objective = Objective(sweep["objective"], sweep["direction"])
    leaderboard.show(trials, objective, sweep.get("keys", []), console, states)
    for run in trials:
        _explain(run, console)
    for name, text in (
        ("trials", _counts(states, sweep.get("trials", len(trials)))),
        ("best", _best(trials, objective)),
        ("left", time_left(trials, sweep.get("trials", len(trials)))),
        ("sweep", str(folder)),
    ):
        if text:
            say_labelled(console, name, text)


def as_json(folder: Path) -> dict[str, Any]:
    """A sweep as JSON values: its objective, how many trials it has, and those that have started, best first."""
    sweep, trials = _described(folder), _trials(folder)
    objective = Objective(sweep["objective"], sweep["direction"])
    states = _states(trials)
    ranked = objective.ranked(trials)
    started = [records.as_json(run) | {"state": states[run], "objective": objective.of(run)} for run in ranked]
    return {
        "sweep": folder.name, "folder": str(folder), "objective": objective.metric, "direction": objective.direction,
        "keys": sweep.get("keys", []), "size": sweep.get("trials", len(trials)), "trials": started,
    }  # fmt: skip


def _described(folder: Path) -> dict[str, Any]:
    return read_json(folder / SWEEP, contents.SWEEP)


def _trials(folder: Path) -> list[Run]:
    return runs.readable(runs.every(folder), lambda trial: (trial.state, trial.metrics(), trial.stages()))


def _states(trials: Sequence[Run]) -> dict[Run, str]:
    """The state of each trial; of those on other machines as these report it."""
    asked = questions.states([trial for trial in trials if trial.state == "away"])
    return {trial: asked.get(trial, trial.state) for trial in trials}


def _explain(run: Run, console: Console) -> None:
    """Why a trial was pruned or has failed."""
    failed = [event for event in run.stages().values() if event["state"] == "failed"]
    if run.prune_reason and run.state == "pruned":
        say_labelled(console, run.folder.name, f"pruned: {run.prune_reason}", "yellow")
    elif failed:
        reason = f"{failed[-1]['stage']}: {failed[-1]['reason']}"
        say_labelled(console, run.folder.name, f"failed: {reason}", "red")


def _counts(states: dict[Run, str], size: int) -> str:
    found = [state.partition(":")[0] for state in states.values()]
    counts = [f"{found.count(state)} {state}" for state in dict.fromkeys(found)]
    waiting = [f"{size - len(found)} not started"] if size > len(found) else []
    return f"{size}: {', '.join([*counts, *waiting])}"


def _best(trials: Sequence[Run], objective: Objective) -> str:
    measured = [(objective.sort_key(value), run) for run in trials if (value := objective.of(run)) is not None]
    if not measured:
        return ""
    best = min(measured, key=lambda entry: entry[0])[1]
    return f"{best.name}: {objective.text(objective.of(best))}"


def rerun(run: Run, console: Console) -> int:
    """Run one trial of a sweep again, in its place; finished stages are cached. Returns the exit status."""
    from runner.commands.sweep.sweep import exclusive  # takes 0.3 s

    if run.state in runs.ACTIVE:
        raise RecipeError(f"{run.name}: is in progress; runner cancel {run.name} stops it")
    recipe = run.typed_recipe()
    target = targets.of(recipe.target)
    plan = target.plan(recipe)
    composed = Composed(recipe, Path(run.manifest["recipe"]), run.manifest["overrides"], run.manifest["choices"])
    with exclusive(run.folder.parent):
        shutil.rmtree(run.folder)
        again = Run(create.create(composed, plan, run.folder))
        lifecycle.start(again, target, attached=True)
        return lifecycle.watch(again, target, console)


def find_sweep(name: str, folder: Path) -> Path:
    """The folder of a sweep: `last`, the one that was started last, or by its name, a part of it, or its path.

    Raises RecipeError unless exactly one matches.
    """
    if (Path(name) / SWEEP).is_file():
        return Path(name).absolute()
    descriptions = sorted((folder / "sweeps").glob(f"*/{SWEEP}"), key=lambda file: file.stat().st_mtime)
    sweeps = {file.parent.name: file.parent.absolute() for file in descriptions}
    names = runs.names_matching(name, list(sweeps))
    if len(names) == 1:
        return sweeps[names[0]]
    if names:
        raise RecipeError(f'"{name}" matches {len(names)} sweeps: {", ".join(names[-5:])}; write more of the name')
    if not sweeps:
        raise RecipeError(f"{folder / 'sweeps'}: no sweeps yet; runner run RECIPE -m KEY=VALUE,VALUE starts one")
    raise RecipeError(f"{name}: no such sweep in {folder / 'sweeps'}; {did_you_mean(name, list(sweeps))}")


def sweep_command(args: argparse.Namespace) -> int:
    """Show a sweep, or run one of its trials again."""
    folder = find_sweep(args.sweep, args.folder)
    if args.rerun is None:
        print_json(as_json(folder)) if args.json else show(folder, terminal())
        return 0
    trials = {run.folder.name: run for run in runs.recorded(folder)}
    number = f"{args.rerun:03d}"
    if number not in trials:
        raise RecipeError(f"--rerun: {folder.name} has no trial {number}; it has {', '.join(sorted(trials)) or 'none'}")
    return rerun(trials[number], terminal())
