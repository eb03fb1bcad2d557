"""`runner data`: the examples of a recipe as they will be trained, before any training."""

from __future__ import annotations

import argparse
import dataclasses
from itertools import dropwhile
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands import tables
from runner.commands.lifecycle import begin, follow_to_end, say_notes
from runner.commands.tables import terminal
from runner.compose.composed import Composed
from runner.compose.recipe import compose
from runner.compose.schema import Tracker
from runner.record.runs import Run

_LAST_STAGE = "tokenize"
_BAR = 40  # columns
_SPLITS = {"train": "train", "eval": "held out"}
_COUNTS = {
    "examples": "examples", "dropped": "dropped, too long", "truncated": "truncated", "split": "texts that were split",
    "longest": "longest, in tokens",
    "mean_tokens": "average, in tokens", "sequences": "sequences", "label_tokens": "tokens to learn",
}  # fmt: skip


def data_command(args: argparse.Namespace) -> int:
    """Tokenize, and show the examples."""
    console = terminal()
    composed = compose(args.recipe, args.overrides)
    say_notes(composed)
    run, status = tokenize(composed, console)
    if status == 0 and run.result(_LAST_STAGE, "preview.json"):  # there is none of a run that continues, detached
        show(run, console)
    return status


def tokenize(composed: Composed, console: Console) -> tuple[Run, int]:
    """Run the recipe up to its tokens, as a run of its own. Returns it, and the exit status."""
    recipe = composed.recipe
    recipe.name, recipe.tracker = f"data-{recipe.name}", Tracker()
    target = targets.of(recipe.target)
    whole = target.build(recipe)
    stages = [step.stage for step in whole.steps]
    steps = whole.steps[: stages.index(_LAST_STAGE) + 1]
    run = begin(composed, target.assign(dataclasses.replace(whole, steps=steps)), target)
    return run, follow_to_end(run, target, console)


def show(run: Run, console: Console) -> None:
    """Print the counts, the lengths, what was noticed, and the first examples."""
    statistics, preview = (run.result(_LAST_STAGE, f"{name}.json") or {} for name in ("statistics", "preview"))
    console.print(_counts(statistics))
    if statistics["sources"]:
        console.print(_sources(statistics["sources"]))
    _print_lengths(preview, statistics["seq_len"], console)
    for note in preview["notes"]:
        console.print(Text(note, style="yellow"))
    marked = console.no_color or not console.is_terminal
    rows = f"rows in the format {preview['format']}" if preview["format"] else "rows in the recipe's template"
    written = "written with the model's chat template" if preview["chat"] else "written as plain text"
    console.print(Text(f"\n{rows}, {written}"), soft_wrap=True)
    console.print("what is learned is between ⟦ and ⟧" if marked else "what is learned is [green]green[/]")
    for number, pieces in enumerate(preview["examples"], 1):
        console.print(Text(f"\nexample {number}", style="bold"))
        console.print(_example(pieces, marked), soft_wrap=True)


def _counts(statistics: dict[str, Any]) -> Any:
    table = tables.table("", *_SPLITS.values())
    for key, name in _COUNTS.items():
        table.add_row(name, *(f"{statistics[split][key]:,.6g}" for split in _SPLITS))
    return table


def _sources(sources: list[dict[str, Any]]) -> Any:
    table = tables.table("source", "rows", "used")
    for source in sources:
        table.add_row(source["name"], f"{source['rows']:,}", f"{source['used']:,}")
    return table


def _print_lengths(preview: dict[str, Any], seq_len: int, console: Console) -> None:
    """How many training examples have how many tokens, as bars."""
    lengths = preview["lengths"]["train"]
    most = max(count for _, count in lengths)
    for limit, count in dropwhile(lambda length: not length[1], lengths):
        bar = "█" * -(-count * _BAR // most)
        too_long = "  longer than seq_len" if limit > seq_len and count else ""
        console.print(Text(f"  up to {limit:>6,} tokens {count:>8,} {bar}{too_long}"))


def _example(pieces: list[tuple[str, bool]], marked: bool) -> Text:
    text = Text()
    for piece, learned in pieces:
        text.append(f"⟦{piece}⟧" if learned and marked else piece, style="green" if learned else "dim")
    return text
