"""A plan as shell commands: for a review, or to run by hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from runner.execute.process import environment_bin
from runner.plan.model import Plan, Step


def shell(plan: Plan) -> str:
    """A bash script that runs the steps of a plan in order and publishes each artifact when it is complete."""
    lines = ["#!/usr/bin/env bash", "set -euo pipefail", ""]
    for number, step in enumerate(plan.steps, 1):
        partial, finished = f"{plan.store}/partial/{step.key}", f"{plan.store}/objects/{step.key}"
        commands = [f"mkdir -p {shlex.quote(partial)} {shlex.quote(plan.store + '/objects')}", command_line(step)]
        if step.cached:
            publish = f"mv {shlex.quote(partial)} {shlex.quote(finished)}"
            commands = [f"if [ ! -d {shlex.quote(finished)} ]; then", *commands, publish, "fi"]
        lines += [f"# [{number}/{len(plan.steps)}] {step.title}", *commands, ""]
    return "\n".join(lines)


def command_line(step: Step) -> str:
    """A step as a shell command, one option per line."""
    variables = [*_search_path(step.argv[0]), *(f"{name}={shlex.quote(value)}" for name, value in step.env.items())]
    args = [*variables, *map(shlex.quote, step.argv)]
    return " \\\n    ".join(" ".join(line) for line in _lines(args))


def _search_path(python: str) -> Iterator[str]:
    """PATH as the executor sets it. The shell expands what is in double quotes."""
    folder = environment_bin(python)
    if folder:
        here = "" if folder.is_absolute() else '"$PWD"/'
        yield f'PATH={here}{shlex.quote(str(folder))}:"$PATH"'


def _lines(args: Sequence[str]) -> Iterator[list[str]]:
    """The arguments of each line: an option with its values."""
    line: list[str] = []
    for arg in args:
        if arg.startswith("--") and line:
            yield line
            line = []
        line.append(arg)
    yield line
