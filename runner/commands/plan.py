"""`runner plan`: the command lines of a recipe, without running them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from rich.console import Console

from runner import targets
from runner.commands import tables
from runner.commands.forecast import costs, statistics_of, training_steps
from runner.commands.lifecycle import say_notes
from runner.commands.tables import terminal
from runner.compose.overrides import check_overrides
from runner.compose.recipe import compose, locate
from runner.compose.schema import Architecture, Recipe
from runner.execute.store import Store
from runner.metrics import duration
from runner.plan import text
from runner.plan.checks import feasibility, initial_adapter, memory, training_time
from runner.plan.checks.feasibility import gib
from runner.plan.checks.memory import Estimate
from runner.plan.checks.training_time import UTILIZATION, Range
from runner.plan.model import Plan, Step


def show(recipe: Recipe, plan: Plan, console: Console) -> None:
    """Print the steps with their state, the values derived from the recipe, and every command line."""
    store = Store(plan.store)
    steps = tables.table("step", "state", "artifact")
    for number, step in enumerate(plan.steps, 1):
        steps.add_row(f"{number} {step.title}", state_of(step, store), step.key if step.cached else "")
    console.print(steps)
    derived = tables.table("", "", show_header=False)
    for name, value in derived_values(recipe, plan, store):
        derived.add_row(name, value)
    console.print(derived)
    for number, step in enumerate(plan.steps, 1):
        print(f"# [{number}/{len(plan.steps)}] {step.title}\n{text.command_line(step)}\n")


def state_of(step: Step, store: Store) -> str:
    """Whether a step will run: "cached", "will run", or more words."""
    if not step.cached:
        return "runs every time"
    if store.has(step.key):
        return "cached"
    return "will run, from its last checkpoint" if _resumes(step, store) else "will run"


def _resumes(step: Step, store: Store) -> bool:
    return step.resumable and any(store.partial(step.key).glob("checkpoints/*"))


def derived_values(recipe: Recipe, plan: Plan, store: Store) -> Iterator[tuple[str, str]]:
    """The names and values of what follows from the recipe."""
    architecture = feasibility.architecture_of(recipe)
    if architecture:
        yield from _shapes(recipe, architecture)
    steps, origin = training_steps(recipe, statistics_of(plan, store))
    yield "training steps", f"{steps}: {origin}" if steps else origin
    if unknown := initial_adapter.unknown(recipe):
        yield "adapter", unknown
    if architecture:
        yield from _needs(recipe, feasibility.estimate(recipe, architecture))
    if recipe.serve.engine == "vllm" and recipe.sdk.vllm_install and not recipe.serve.image:
        yield "install first", recipe.sdk.vllm_install
    time = training_time.training_time(recipe, architecture, steps) if architecture and steps else None
    yield from _time_and_price(recipe, time)


def _shapes(recipe: Recipe, shapes: Architecture) -> Iterator[tuple[str, str]]:
    tp_size, multiplier = recipe.parallel.tp_size, feasibility.kv_size_multiplier(recipe, shapes)
    rows = memory.vocabulary_rows(shapes, tp_size)
    padding = rows * tp_size - shapes.vocab_size
    yield (
        "model",
        f"{shapes.num_hidden_layers} layers of {shapes.hidden_size}, {shapes.num_attention_heads} query and "
        f"{shapes.num_key_value_heads} K/V heads, {shapes.vocab_size} tokens",
    )
    yield (
        "each rank",
        f"{shapes.num_attention_heads // tp_size} query and "
        f"{shapes.num_key_value_heads * multiplier // tp_size} K/V heads (kv_size_multiplier {multiplier}), "
        f"{shapes.intermediate_size // tp_size} of the MLP, {rows} tokens"
        + (f" (the vocabulary is padded by {padding})" if padding else ""),
    )


def _needs(recipe: Recipe, needs: Estimate) -> Iterator[tuple[str, str]]:
    limit = recipe.hardware.core_memory_gb
    core = f"one core {gib(needs.core)}{f' of {limit:g} GiB' if limit else ''}"
    parts = f"weights {gib(needs.weights)}, LoRA and optimizer {gib(needs.adapter)}"
    yield "memory", f"{core} ({parts}, activations {gib(needs.activations)}); host {gib(needs.host[needs.peak_stage])}"
    yield "disk", gib(sum(needs.disk.values()))


def _time_and_price(recipe: Recipe, time: Range | None) -> Iterator[tuple[str, str]]:
    """How long the training takes by its operations, and what that costs."""
    if time:
        shares = " to ".join(f"{100 * share:g}" for share in UTILIZATION)
        span = f"{duration(time.shortest)} to {duration(time.longest)}"
        yield "training time", f"{span}, if it reaches {shares} % of the peak; without compilation, not measured"
    yield from costs(recipe, time)


def plan_command(args: argparse.Namespace) -> int:
    """Print a plan; exit status 0."""
    if args.multirun:
        return _plan_sweep(args)
    composed = compose(args.recipe, args.overrides)
    recipe = composed.recipe
    target = targets.of(recipe.target)
    plan = target.plan(recipe)
    say_notes(composed)
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    elif args.shell:
        print(text.shell(plan), end="")
    elif args.manifests:
        print(target.manifests(plan), end="")
    else:
        show(recipe, plan, terminal())
    return 0


def _plan_sweep(args: argparse.Namespace) -> int:
    from runner.commands.sweep import preview, sweep  # 0.3 s that a single plan need not spend

    source = locate(args.recipe)
    check_overrides(args.overrides, source)
    with sweep.planned(source, args.overrides) as planned:
        preview.show(planned, terminal())
    return 0
