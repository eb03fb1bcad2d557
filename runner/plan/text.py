"""A plan as shell commands: for a review, or to run by hand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from runner.execute.process import environment_bin
from runner.plan.model import Plan, Step

_HEAD = """#!/usr/bin/env bash
# {recipe}, as shell commands. A step whose artifact is in the store is skipped, so an interrupted script can be run
# again.
# shellcheck disable=SC2016  # a recipe's text may contain $
set -euo pipefail
"""


def shell(plan: Plan) -> str:
    """A bash script that runs the steps of a plan in order and publishes each artifact when it is complete."""
    folders = _folders(plan)
    variables = [f"{name}={shlex.quote(folder)}" for name, folder in folders.items()]
    steps = [_step(plan, number, lambda text: _with_variables(text, folders)) for number in range(len(plan.steps))]
    recipe = " ".join(plan.recipe.splitlines())
    return "\n".join([_HEAD.format(recipe=recipe), *variables, "", *steps])


def _folders(plan: Plan) -> dict[str, str]:
    """The folders that a script names once: the store, those of the stage programs and of their Python."""
    first = plan.steps[0].argv
    program = next((arg for arg in first if arg.endswith(".py")), None)
    python = environment_bin(first[0])
    found = {"store": plan.store, "scripts": program and str(Path(program).parent), "bin": python and str(python)}
    return {name: folder for name, folder in found.items() if folder}


def _step(plan: Plan, index: int, quote: Callable[[str], str]) -> str:
    step = plan.steps[index]
    partial, objects = f"{plan.store}/partial/{step.key}", f"{plan.store}/objects"
    finished = quote(f"{objects}/{step.key}")
    indent = "    " if step.cached else ""
    lines = [f"mkdir -p {quote(partial)} {quote(objects)}", command_line(step, quote, f"{indent}    ")]
    if step.cached:
        lines += [f"mv {quote(partial)} {finished}"]
        lines = [f"if [ ! -d {finished} ]; then", *(f"{indent}{line}" for line in lines), "fi"]
    return "\n".join([f"echo {shlex.quote(f'[{index + 1}/{len(plan.steps)}] {step.title}')}", *lines, ""])


def _with_variables(text: str, folders: Mapping[str, str]) -> str:
    """A word of a script that expands to `text`, in which each of the folders is written as its variable."""
    named = {folder: name for name, folder in folders.items()}
    alternatives = "|".join(map(re.escape, sorted(named, key=len, reverse=True)))
    parts = re.split(rf"(?<![\w/.-])({alternatives})(?![^/])", text)
    quoted = (f'"${named[part]}"' if number % 2 else shlex.quote(part) for number, part in enumerate(parts) if part)
    word = "".join(quoted) or "''"
    return re.sub(r'^("\$\w+)"([\w/.:=@%+-]+)$', r'\1\2"', word)  # "$store/objects", not "$store"/objects


def command_line(step: Step, quote: Callable[[str], str] = shlex.quote, indent: str = "    ") -> str:
    """A step as a shell command, one option per line."""
    variables = [*_search_path(step.argv[0], quote), *(f"{name}={quote(value)}" for name, value in step.env.items())]
    args = [*variables, *map(quote, step.argv)]
    return f" \\\n{indent}".join(" ".join(line) for line in _lines(args))


def _search_path(python: str, quote: Callable[[str], str]) -> Iterator[str]:
    """PATH as the executor sets it. The shell expands what is in double quotes."""
    folder = environment_bin(python)
    if folder:
        here = "" if folder.is_absolute() else '"$PWD"/'
        yield f'PATH={here}{quote(str(folder))}:"$PATH"'


def _lines(args: Sequence[str]) -> Iterator[list[str]]:
    """The arguments of each line: an option with its values."""
    line: list[str] = []
    for arg in args:
        if arg.startswith("--") and line:
            yield line
            line = []
        line.append(arg)
    yield line
