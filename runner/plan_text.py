"""A plan as text that can be read in a review and pasted into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner import feasibility
from runner.plan import Plan, Step
from runner.schema import Recipe
from runner.store import Store


def show(recipe: Recipe, plan: Plan) -> None:
    """Print every step with its state and its command line, then what was derived."""
    store = Store(plan.store)
    for number, step in enumerate(plan.steps, 1):
        print(f"# [{number}/{len(plan.steps)}] {step.title} - {_state(step, store)}")
        print(f"{command_line(step)}\n")
    for line in _derived(recipe, plan, store):
        print(f"# {line}")


def shell(plan: Plan) -> str:
    """A bash script that does by hand what the plan does: the steps in order, each published when it is complete."""
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", ""]
    for number, step in enumerate(plan.steps, 1):
        made, finished = f"{plan.store}/partial/{step.key}", f"{plan.store}/objects/{step.key}"
        lines += [f"# [{number}/{len(plan.steps)}] {step.title}"]
        work = [f"mkdir -p {shlex.quote(made)} {shlex.quote(plan.store + '/objects')}", command_line(step)]
        if step.cached:
            work = [f"if [ ! -d {shlex.quote(finished)} ]; then", *work,
                    f"mv {shlex.quote(made)} {shlex.quote(finished)}", "fi"]  # fmt: skip
        lines += [*work, ""]
    return "\n".join(lines)


def command_line(step: Step) -> str:
    """The step as a shell command, one option a line."""
    words = [*(f"{name}={shlex.quote(value)}" for name, value in step.env.items()), *map(shlex.quote, step.argv)]
    return " \\\n    ".join(" ".join(line) for line in _lines(words))


def _lines(words: Sequence[str]) -> Iterator[list[str]]:
    """Break before every option, so that a line holds one option with its values."""
    line: list[str] = []
    for word in words:
        if word.startswith("--") and line:
            yield line
            line = []
        line.append(word)
    yield line


def _state(step: Step, store: Store) -> str:
    if not step.cached:
        return "runs every time"
    if store.has(step.key):
        return "cached"
    return "will run, from its last checkpoint" if _resumes(step, store) else "will run"


def _resumes(step: Step, store: Store) -> bool:
    return step.resumable and any(store.partial(step.key).glob("checkpoints/*"))


def _derived(recipe: Recipe, plan: Plan, store: Store) -> Iterator[str]:
    architecture = feasibility.architecture_of(recipe)
    if architecture:
        multiplier = feasibility.kv_size_multiplier(recipe, architecture)
        yield (f"kv_size_multiplier {multiplier}: {architecture.num_key_value_heads} K/V heads, "
               f"tp_size {recipe.parallel.tp_size}")  # fmt: skip
    yield steps_line(recipe, _statistics(plan, store))


def _statistics(plan: Plan, store: Store) -> Path:
    step = next(step for step in plan.steps if step.stage == "tokenize")
    return store.path(step.key) / "statistics.json"


def steps_line(recipe: Recipe, statistics: Path) -> str:
    """How many optimizer steps the training takes, once the rows are tokenized."""
    train = recipe.train
    if train.max_steps:
        return f"training steps {train.max_steps}: train.max_steps"
    if not statistics.is_file():
        return "training steps: known when the rows are tokenized (packing decides)"
    sequences = json.loads(statistics.read_text())["train"]["sequences"]
    copies = recipe.parallel.dp_size * recipe.parallel.nodes
    per_epoch = -(-sequences // (train.batch_size * train.accumulate * copies))
    batch = f"{train.batch_size} batch x {train.accumulate} accumulated" + (f" x {copies} copies" if copies > 1 else "")
    steps = per_epoch * train.epochs
    return f"training steps {steps}: {sequences} sequences / ({batch}) x {train.epochs} epoch(s)"
