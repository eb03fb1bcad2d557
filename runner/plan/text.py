"""A plan as text that can be read in a review and pasted into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.compose.schema import Recipe
from runner.execute.process import environment_bin
from runner.execute.store import Store
from runner.plan.checks import feasibility
from runner.plan.checks.feasibility import gib
from runner.plan.checks.memory import Estimate
from runner.plan.model import Plan, Step


def show(recipe: Recipe, plan: Plan, console: Console) -> None:
    """Print the steps with their state, what was derived, and every command line."""
    store = Store(plan.store)
    steps = Table("step", "state", "artifact", box=box.SIMPLE_HEAD)
    for number, step in enumerate(plan.steps, 1):
        steps.add_row(Text(f"{number} {step.title}"), _state(step, store), step.key if step.cached else "")
    console.print(steps)
    derived = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, value in _derived(recipe, plan, store):
        derived.add_row(name, Text(value))
    console.print(derived)
    for number, step in enumerate(plan.steps, 1):
        print(f"# [{number}/{len(plan.steps)}] {step.title}\n{command_line(step)}\n")


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
    variables = [*_search_path(step.argv[0]), *(f"{name}={shlex.quote(value)}" for name, value in step.env.items())]
    words = [*variables, *map(shlex.quote, step.argv)]
    return " \\\n    ".join(" ".join(line) for line in _lines(words))


def _search_path(python: str) -> Iterator[str]:
    """PATH as the executor sets it; a shell expands what is between double quotes."""
    folder = environment_bin(python)
    if folder:
        here = "" if folder.is_absolute() else '"$PWD"/'
        yield f'PATH={here}{shlex.quote(str(folder))}:"$PATH"'


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


def _derived(recipe: Recipe, plan: Plan, store: Store) -> Iterator[tuple[str, str]]:
    """What follows from the recipe, by name."""
    architecture = feasibility.architecture_of(recipe)
    if architecture:
        shapes, tp_size = architecture, recipe.parallel.tp_size
        multiplier = feasibility.kv_size_multiplier(recipe, shapes)
        yield (
            "model",
            f"{shapes.num_hidden_layers} layers of {shapes.hidden_size}, {shapes.num_attention_heads} query and "
            f"{shapes.num_key_value_heads} K/V heads, {shapes.vocab_size} tokens",
        )
        yield (
            "one rank of",
            f"{tp_size}: {shapes.num_attention_heads // tp_size} query and "
            f"{shapes.num_key_value_heads * multiplier // tp_size} K/V heads (kv_size_multiplier {multiplier}), "
            f"{shapes.intermediate_size // tp_size} of the MLP, {shapes.vocab_size // tp_size} tokens",
        )
    yield "training steps", steps_line(recipe, _statistics(plan, store))
    if architecture:
        yield from _needs(recipe, feasibility.estimate(recipe, architecture))
    if recipe.serve.engine == "vllm" and recipe.sdk.vllm_install and not recipe.serve.image:
        yield "install first", recipe.sdk.vllm_install
    if recipe.hardware.price_per_hour:
        price = recipe.hardware
        yield "price", f"${price.price_per_hour:g} an hour, on demand in {price.price_region}, {price.price_date}"


def _needs(recipe: Recipe, needs: Estimate) -> Iterator[tuple[str, str]]:
    limit = recipe.hardware.core_memory_gb
    core = f"one core {gib(needs.core)}{f' of {limit:g} GiB' if limit else ''}"
    parts = f"weights {gib(needs.weights)}, LoRA and optimizer {gib(needs.adapter)}"
    yield "memory", f"{core} ({parts}, activations {gib(needs.activations)}); host {gib(needs.host[needs.peak_stage])}"
    yield "disk", gib(sum(needs.disk.values()))


def _statistics(plan: Plan, store: Store) -> Path:
    step = next(step for step in plan.steps if step.stage == "tokenize")
    return store.path(step.key) / "statistics.json"


def steps_line(recipe: Recipe, statistics: Path) -> str:
    """How many optimizer steps the training takes, once the rows are tokenized."""
    train = recipe.train
    if train.max_steps:
        return f"{train.max_steps}: train.max_steps"
    if not statistics.is_file():
        return "known when the rows are tokenized (packing decides)"
    sequences = json.loads(statistics.read_text(encoding="utf-8"))["train"]["sequences"]
    copies = recipe.parallel.dp_size * recipe.parallel.nodes
    per_epoch = -(-sequences // (train.batch_size * train.accumulate * copies))
    batch = f"{train.batch_size} batch x {train.accumulate} accumulated" + (f" x {copies} copies" if copies > 1 else "")
    steps = per_epoch * train.epochs
    return f"{steps}: {sequences} sequences / ({batch}) x {train.epochs} epoch(s)"
